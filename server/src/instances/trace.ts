/**
 * What a look at an instance leaves in the trace of the request that caused it: nothing, when it found what was known
 * and did nothing. Pure.
 */
import type { Wait } from '../requests/row.ts'
import type { Step } from './decide.ts'
import type { InstanceRow, Status } from './row.ts'
import { statusOf } from './status.ts'

/** A span without its times; `requests/row.ts` says what the fields are. */
export type StepSpan = {
  name: string
  kind: 'step' | 'ready' | 'status'
  status: 'ok' | 'failed'
  waits_for: Wait | null
  detail: Record<string, string>
}

/** Where a wish has come to its end, well or badly: what changes then was asked for by nobody. */
const SETTLED: readonly Status[] = ['running', 'stopped', 'failed', 'terminated']

/** What is waited for after a step. */
const WAITS: Partial<Record<Step['do'], Wait>> = { require_image: 'image', start: 'boot', power_down: 'shutdown' }

/**
 * @param before the row as it was
 * @param seen the row as the look has left it
 * @param step what was decided, and done unless `failure` says otherwise
 * @returns null: nothing to tell, or nobody's request
 */
export function spanOf(before: InstanceRow, seen: InstanceRow, step: Step, failure: Failure = null): StepSpan | null {
  const { status, status_reason } = statusOf(seen)
  const acted = step.do !== 'nothing' && step.do !== 'fail'
  const moved = status !== before.status
  if (isRecovery(seen, step)) return null
  if (!acted && (!moved || requestOf(before) === null)) return null
  const kind = moved && status === 'running' ? 'ready' : acted ? 'step' : 'status'
  const failed = failure !== null || (moved && status === 'failed')
  return {
    name: acted ? step.do : status,
    kind,
    status: failed ? 'failed' : 'ok',
    waits_for: waitAfter(step, status, failure),
    detail: failure ? { code: failure.code } : moved && status_reason ? { code: status_reason.code } : {},
  }
}

/** Why a step was not done; `final`: it is not tried again. */
export type Failure = { code: string; final: boolean } | null

function waitAfter(step: Step, status: Status, failure: Failure): Wait | null {
  if (failure) return failure.final ? null : 'retry'
  if (step.do === 'set_public_address') return status === 'running' ? null : 'boot'
  if (step.do === 'nothing' || step.do === 'fail' || step.do === 'finalise')
    return SETTLED.includes(status) ? null : 'queue'
  return WAITS[step.do] ?? 'queue'
}

/** Being started again after a failure is nobody's request. */
function isRecovery(seen: InstanceRow, step: Step): boolean {
  return seen.observed_recovering || (step.do === 'start' && step.recovering)
}

/**
 * The request that a change seen by looking comes from: the one of the wish, until the wish is met. A guest that
 * powers itself off, and a machine that fails, were asked by nobody.
 */
export function requestOf(before: InstanceRow): string | null {
  const met = before.status === 'running' || before.status === 'stopped' || before.status === 'recovering'
  return met ? null : before.wanted_request_id
}
