/**
 * One delivery: sends an event to an endpoint and returns the outcome. An endpoint is cached for one second, so a change
 * of the webhook or its key applies to requests that start a second later.
 */
import type { Sql } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { envelopeOf } from '../events/envelope.ts'
import { scopeOf } from '../events/patterns.ts'
import { currentScopes } from '../keys/store.ts'
import { open } from '../lib/secret-box.ts'
import type { ConnectionSlot } from './attempt.ts'
import type { Due, Outcome } from './deliveries.ts'
import { GONE, retryAfterSeconds, secondsUntilRetry } from './retry-schedule.ts'
import { isEnabled, type WebhookRow } from './row.ts'
import { findEndpoint } from './store.ts'

/** Real milliseconds for which an endpoint is cached. */
const CACHE_MS = 1_000

/**
 * A webhook with its opened secrets, the scopes of its key (null when the key is revoked or expired), and whether it
 * belongs to the operator's project.
 */
export type Endpoint = { row: WebhookRow; secrets: Uint8Array[]; scopes: string[] | null; is_operators: boolean }

/** Reads an endpoint; null if it does not exist. */
export async function readEndpoint(deps: Pick<Deps, 'secrets'> & { sql: Sql }, id: string): Promise<Endpoint | null> {
  const found = await findEndpoint(deps.sql, id)
  if (!found) return null
  const { previous_counts, is_operators, ...row } = found
  const sealed = previous_counts && row.previous_secret ? [row.secret, row.previous_secret] : [row.secret]
  const secrets = sealed.map((each) => open(deps.secrets.seal_key, each))
  return { row, secrets, scopes: await currentScopes(deps.sql, row.environment_id, row.key_id), is_operators }
}

/** Whether events are sent to the endpoint. */
export const isOpen = ({ row, scopes }: Endpoint): boolean => isEnabled(row) && scopes !== null

/** A cache of one endpoint. */
export function createEndpointView(deps: Deps, first: Endpoint) {
  let known: Endpoint | null = first
  let until = deps.clock.monotonic() + CACHE_MS
  let reading: Promise<Endpoint | null> | null = null
  return {
    async now(): Promise<Endpoint | null> {
      if (deps.clock.monotonic() < until) return known
      reading ??= readEndpoint(deps, first.row.id).finally(() => {
        reading = null
      })
      known = await reading
      until = deps.clock.monotonic() + CACHE_MS
      return known
    },
    invalidate() {
      until = 0
    },
  }
}
export type EndpointView = ReturnType<typeof createEndpointView>

/** Makes one attempt of a delivery, or cancels it if the event has expired or the endpoint's key may not read it. */
export async function deliver(deps: Deps, slot: ConnectionSlot, endpoint: Endpoint, due: Due): Promise<Outcome> {
  const { delivery_id, attempts } = due
  const cancelled = (reason: string): Outcome => {
    return { delivery_id, attempts, status: 'cancelled', reason, after_seconds: null, attempt: null }
  }
  if (due.expired) return cancelled('expired')
  if (!endpoint.scopes?.includes(scopeOf(due.type))) return cancelled('scope')
  const target = { url: endpoint.row.url, secrets: endpoint.secrets }
  const { attempt, retry_after } = await slot.attempt(target, { id: due.id, body: envelopeOf(due) })
  const made = attempts + 1
  const done = { delivery_id, attempts: made, attempt, reason: attempt.error }
  if (attempt.error === null) return { ...done, status: 'succeeded', after_seconds: null }
  const retryAfter = retryAfterSeconds(retry_after, deps.clock.now())
  const after_seconds = attempt.response_status === GONE ? null : secondsUntilRetry(made, retryAfter, chance(deps))
  return { ...done, status: after_seconds === null ? 'failed' : 'pending', after_seconds }
}

const STEPS = 1_000_000
const chance = ({ random }: Pick<Deps, 'random'>): number => random.integer(STEPS + 1) / STEPS

/** Records the attempt as a span of the request that caused the event. */
export function recordSpan(
  deps: Pick<Deps, 'requests'>,
  { row }: Endpoint,
  due: Due,
  { attempt, attempts }: Outcome,
): void {
  if (attempt === null || due.request_id === null) return
  deps.requests.span({
    environment_id: row.environment_id,
    request_id: due.request_id,
    resource: due.resource_id,
    started_at: attempt.started_at,
    name: `${row.id} ${attempts}`,
    kind: 'delivery',
    waits_for: null,
    duration_ms: attempt.duration_ms,
    status: attempt.error === null ? 'ok' : 'failed',
    detail: {
      event: due.type,
      webhook_id: row.id,
      delivery_id: due.delivery_id,
      attempt: attempts,
      status: attempt.response_status,
      error: attempt.error,
    },
  })
}
