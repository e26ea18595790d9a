/**
 * The span that a reconcile pass adds to the trace of the request that caused it; none when the pass observed no change
 * and did nothing. Pure.
 */
import type { Wait } from '../requests/row.ts'
import type { Step } from './decide.ts'
import type { InstanceRow, Status } from './row.ts'
import { statusOf } from './status.ts'

/** A span without its times; see `requests/row.ts` for the fields. */
export type StepSpan = {
  name: string
  kind: 'step' | 'ready' | 'status'
  status: 'ok' | 'failed'
  waits_for: Wait | null
  detail: Record<string, string>
}

/** Statuses in which a desired change is complete or has failed; no request caused later changes. */
const SETTLED: readonly Status[] = ['running', 'stopped', 'failed', 'terminated']

/** What the instance waits for after a step. */
const WAITS: Partial<Record<Step['do'], Wait>> = { require_image: 'image', start: 'boot', power_down: 'shutdown' }

/**
 * @param before the row before the pass
 * @param seen the row after the pass
 * @param step the decided step; done unless there is a `failure`
 * @returns null when nothing changed, or no request caused it
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

/** Why a step failed; `final`: it is not retried. */
export type Failure = { code: string; final: boolean } | null

function waitAfter(step: Step, status: Status, failure: Failure): Wait | null {
  if (failure) return failure.final ? null : 'retry'
  if (step.do === 'set_public_address') return status === 'running' ? null : 'boot'
  if (step.do === 'nothing' || step.do === 'fail' || step.do === 'finalise')
    return SETTLED.includes(status) ? null : 'queue'
  return WAITS[step.do] ?? 'queue'
}

/** A restart after a failure is caused by no request. */
function isRecovery(seen: InstanceRow, step: Step): boolean {
  return seen.observed_recovering || (step.do === 'start' && step.recovering)
}

/**
 * The request that caused an observed change: that of the desired change, until it is complete. No request causes a
 * guest to power itself off, or a machine to fail.
 */
export function requestOf(before: InstanceRow): string | null {
  const met = before.status === 'running' || before.status === 'stopped' || before.status === 'recovering'
  return met ? null : before.wanted_request_id
}
