/**
 * Reports keys that are about to end by the event `api_key.expiring`. The transaction of the event stores the end that it
 * reports, under the lock of the key: neither a repeated run nor another process reports the same end again.
 */
import { type NewEvent, type OutboxDeps, withOutbox } from '../events/outbox.ts'
import { showKey } from './present.ts'
import type { KeyRow } from './row.ts'
import { type ExpiringKey, expiringKeys, lockKeys, markReported } from './store.ts'

/** Days of real time before the end of a key. */
const NOTICE_DAYS = 7
/** Keys of one run; the next run continues. */
const BATCH = 1_000

/** Emits an event for each key, of all tenants, that ends within a week. Returns how many. */
export async function reportExpiringKeys(deps: OutboxDeps): Promise<number> {
  const found = await expiringKeys(deps.sql, NOTICE_DAYS, BATCH)
  let reported = 0
  for (const keys of Map.groupBy(found, (key) => key.environment_id).values()) reported += await report(deps, keys)
  return reported
}

/** Reports keys of one environment, except those that have changed since they were found. */
async function report(deps: OutboxDeps, keys: ExpiringKey[]): Promise<number> {
  const { environment_id, mode } = keys[0]!
  const ids = keys.map(({ id }) => id)
  return withOutbox(deps, { environment_id, mode }, async (tx, outbox) => {
    const locked = await lockKeys(tx, environment_id, ids)
    const marked = await markReported(tx, ids, NOTICE_DAYS)
    const expiring = locked.filter(({ id }) => marked.includes(id))
    outbox.events = expiring.map((row) => eventOf(row, deps.config.key_rotation_days))
    return expiring.length
  })
}

function eventOf(row: KeyRow, rotationDays: number): NewEvent {
  const object = { object: 'api_key' as const, ...showKey(row, rotationDays) }
  return { type: 'api_key.expiring', resource_id: row.id, request_id: null, data: { object } }
}
