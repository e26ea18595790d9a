/**
 * One delivery: from an event and an endpoint to what came of it. The endpoint is read again when it was read more than a
 * second ago, so what was changed about it holds for what is sent next.
 */
import type { Sql } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { envelopeOf } from '../events/envelope.ts'
import { scopeOf } from '../events/patterns.ts'
import { scopesNow } from '../keys/store.ts'
import { open } from '../lib/secret-box.ts'
import type { Lane } from './attempt.ts'
import type { Due, Outcome } from './deliveries.ts'
import { GONE, retryAfterSeconds, secondsUntilRetry } from './plan.ts'
import { isEnabled, type WebhookRow } from './row.ts'
import { findEndpoint } from './store.ts'

/** Real milliseconds for which what was read of an endpoint is believed. */
const TRUST_MS = 1_000

/** What is known of an endpoint. `scopes`: of its key; null: it has ended. */
export type Endpoint = { row: WebhookRow; mode: 'live' | 'test'; secrets: Uint8Array[]; scopes: string[] | null }

/** Reads an endpoint; null: it is not there. */
export async function readEndpoint(deps: Pick<Deps, 'secrets'> & { sql: Sql }, id: string): Promise<Endpoint | null> {
  const found = await findEndpoint(deps.sql, id)
  if (!found) return null
  const { mode, previous_counts, ...row } = found
  const sealed = previous_counts && row.previous_secret ? [row.secret, row.previous_secret] : [row.secret]
  const secrets = sealed.map((each) => open(deps.secrets.seal_key, each))
  return { row, mode, secrets, scopes: await scopesNow(deps.sql, row.environment_id, row.key_id) }
}

/** Whether anything is sent to it. */
export const isOpen = ({ row, scopes }: Endpoint): boolean => isEnabled(row) && scopes !== null

/** The endpoint as it was within the last second. */
export function createEndpointView(deps: Deps, first: Endpoint) {
  let known: Endpoint | null = first
  let until = deps.clock.monotonic() + TRUST_MS
  let reading: Promise<Endpoint | null> | null = null
  return {
    async now(): Promise<Endpoint | null> {
      if (deps.clock.monotonic() < until) return known
      reading ??= readEndpoint(deps, first.row.id).finally(() => {
        reading = null
      })
      known = await reading
      until = deps.clock.monotonic() + TRUST_MS
      return known
    },
    /** Something about it has changed. */
    forget() {
      until = 0
    },
  }
}
export type EndpointView = ReturnType<typeof createEndpointView>

/** Makes one attempt of a delivery, or cancels it where the endpoint's key may not read the event. */
export async function deliver(deps: Deps, lane: Lane, endpoint: Endpoint, due: Due): Promise<Outcome> {
  const { delivery_id, attempts } = due
  const cancelled = (reason: string): Outcome => {
    return { delivery_id, attempts, status: 'cancelled', reason, after_seconds: null, attempt: null }
  }
  if (due.expired) return cancelled('expired')
  if (!endpoint.scopes?.includes(scopeOf(due.type))) return cancelled('scope')
  const target = { url: endpoint.row.url, secrets: endpoint.secrets }
  const { attempt, retry_after } = await lane.attempt(target, { id: due.id, body: envelopeOf(due) })
  const made = attempts + 1
  const done = { delivery_id, attempts: made, attempt, reason: attempt.error }
  if (attempt.error === null) return { ...done, status: 'succeeded', after_seconds: null }
  const asked = retryAfterSeconds(retry_after, deps.clock.now())
  const after_seconds = attempt.response_status === GONE ? null : secondsUntilRetry(made, asked, chance(deps))
  return { ...done, status: after_seconds === null ? 'failed' : 'pending', after_seconds }
}

const STEPS = 1_000_000
const chance = ({ random }: Pick<Deps, 'random'>): number => random.integer(STEPS + 1) / STEPS

/** The attempt as a part of what the event's request has caused. */
export function trace(deps: Pick<Deps, 'requests'>, { row }: Endpoint, due: Due, { attempt, attempts }: Outcome): void {
  if (attempt === null || due.request_id === null) return
  deps.requests.span({
    ...{ environment_id: row.environment_id, request_id: due.request_id, resource: due.resource_id },
    ...{ started_at: attempt.started_at, name: `${row.id} ${attempts}`, kind: 'delivery', waits_for: null },
    ...{ duration_ms: attempt.duration_ms, status: attempt.error === null ? 'ok' : 'failed' },
    detail: {
      ...{ event: due.type, webhook_id: row.id, delivery_id: due.delivery_id, attempt: attempts },
      ...{ status: attempt.response_status, error: attempt.error },
    },
  })
}
