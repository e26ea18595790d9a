/** Every SQL statement that reads or deletes events; outbox.ts writes them. */
import type { Query } from '../db/database.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError } from '../lib/errors.ts'
import type { EventType } from './catalog.ts'
import { type EventRow, envelopeOf } from './envelope.ts'

/** An event as JSON text; `ordinal` is its sequence number. */
export type EventText = { ordinal: number; type: string; text: string }

/** Sequence numbers of an environment: of the oldest event (or of the next one if there is none), and of the last. */
export type Bounds = { oldest: number; last: number }

/** Null means no filter. */
export type EventFilters = { types: EventType[] | null; resource: string | null }

type Owner = Pick<Principal, 'environment_id' | 'mode'>

const boundsOf = (query: Query, environmentId: string) => query`
  select h.sequence as last, coalesce(
    (select min(sequence) from events where environment_id = ${environmentId}), h.sequence + 1) as oldest
  from environment_heads h where h.environment_id = ${environmentId}`

/** The current bounds of an environment. */
export async function readBounds(query: Query, environmentId: string): Promise<Bounds> {
  const [row] = await query<Bounds[]>`${boundsOf(query, environmentId)}`
  return row!
}

/** One page of an environment's events, and its bounds in the same snapshot. `window.after` is a sequence number. */
export async function readEvents(
  query: Query,
  { environment_id, mode }: Owner,
  filters: EventFilters,
  window: Window,
): Promise<Bounds & { events: EventText[] }> {
  const order = window.descending ? query`desc` : query`asc`
  const rows = await query<(Bounds & (EventRow | { id: null }))[]>`
    with bounds as (${boundsOf(query, environment_id)}),
      found as (${find(query, environment_id, filters, window)})
    select b.oldest, b.last, e.id, e.type, ${mode}::text as environment, e.created_at, e.sequence, e.request_id,
      e.data::text as data
    from bounds b left join (
      found f join events e on e.environment_id = ${environment_id} and e.sequence = f.sequence
    ) on true
    order by e.sequence ${order}`
  const events = rows.flatMap((row) =>
    row.id === null ? [] : [{ ordinal: row.sequence, type: row.type, text: envelopeOf(row) }],
  )
  const { oldest, last } = rows[0]!
  return { oldest, last, events }
}

/** Selects sequence numbers. For a list of types it reads the index once per type, so rare types need no scan. */
function find(query: Query, environmentId: string, { types, resource }: EventFilters, window: Window) {
  const own = query`select sequence from events where environment_id = ${environmentId}`
  if (types === null || resource !== null) {
    return query`
      ${own} ${resource === null ? query`` : query`and resource_id = ${resource}`}
      ${types === null ? query`` : query`and type = any(${types})`} ${windowSql(query, window, 'sequence')}`
  }
  return query`
    select each.sequence
    from unnest(${types}::text[]) as wanted(type) cross join lateral (
      ${own} and type = wanted.type ${windowSql(query, window, 'sequence')}
    ) as each
    order by each.sequence ${window.descending ? query`desc` : query`asc`} limit ${window.limit}`
}

/** Returns null if the environment has no event with this ID. */
export async function findEvent(query: Query, { environment_id, mode }: Owner, id: string): Promise<EventText | null> {
  const [row] = await query<EventRow[]>`
    select id, type, ${mode}::text as environment, created_at, sequence, request_id, data::text as data
    from events where environment_id = ${environment_id} and id = ${id}`
  return row ? { ordinal: row.sequence, type: row.type, text: envelopeOf(row) } : null
}

/**
 * Throws `events_expired` if the event that follows a sequence number was deleted, and `events_ahead` if the number is
 * greater than that of the newest event: the consumer knows a log that this database has not reached.
 */
export function checkKept(after: number, { oldest, last }: Bounds): void {
  if (after > last) {
    const detail = `The newest event is ${last}, so ${after} is a position of another log, for instance of one before a restore from a backup. Read the current state of your resources, then continue with after=${last}.`
    throw new ApiError('events_ahead', detail, { extensions: { newest_sequence: last } })
  }
  if (after + 1 >= oldest) return
  const detail = `Events after ${after} have been deleted. Read the current state of your resources, then continue with after=${oldest - 1}.`
  throw new ApiError('events_expired', detail, { extensions: { oldest_sequence: oldest } })
}

/** Maximum number of events that one statement deletes. */
const BATCH = 10_000

/**
 * Deletes events of an environment that are older than `days` of its time, in sequence order up to the first newer event,
 * so that the remaining sequence has no gaps. Returns the number of deleted events.
 */
async function purgeOldest(query: Query, environmentId: string, days: number): Promise<number> {
  const deleted = await query`
    delete from events v using (
      select o.sequence, bool_and(o.is_old) over (order by o.sequence) as is_old
      from (
        select sequence, created_at < environment_now(${environmentId}) - make_interval(days => ${days}) as is_old
        from events where environment_id = ${environmentId} order by sequence limit ${BATCH}
      ) as o
    ) as w
    where w.is_old and v.environment_id = ${environmentId} and v.sequence = w.sequence`
  return deleted.count
}

/** Statements of one run; the next run continues. */
const STATEMENTS = 100

/** Deletes events older than this many days of their environment's time, of all tenants, in batches. Returns how many. */
export async function purgeEvents(query: Query, days: number): Promise<number> {
  const old = await query<{ id: string }[]>`
    select e.id from environments e cross join lateral (
      select created_at from events where environment_id = e.id order by sequence limit 1
    ) as first
    where first.created_at < environment_now(e) - make_interval(days => ${days})`
  const left = old.map(({ id }) => id)
  let deleted = 0
  for (let i = 0; i < STATEMENTS && left.length > 0; i++) {
    const id = left.shift()!
    const count = await purgeOldest(query, id, days)
    deleted += count
    // An environment that has more comes after the others.
    if (count === BATCH) left.push(id)
  }
  return deleted
}
