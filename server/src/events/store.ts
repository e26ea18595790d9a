/** Every SQL statement that reads events or removes them; they are written by head.ts. */
import type { Query } from '../db/database.ts'
import type { Principal } from '../deps.ts'
import { type Window, windowSql } from '../http/list.ts'
import { ApiError } from '../lib/errors.ts'
import type { EventType } from './catalog.ts'
import { type EventRow, envelopeOf } from './envelope.ts'

/** An event as it goes out; its ordinal is its sequence. */
export type EventText = { ordinal: number; type: string; text: string }

/** The sequences that an environment has: of the oldest event that is kept (or will be the next), and of the last one. */
export type Bounds = { oldest: number; last: number }

/** Null stands for all. */
export type EventFilters = { types: EventType[] | null; resource: string | null }

type Owner = Pick<Principal, 'environment_id' | 'mode'>

const boundsOf = (query: Query, environmentId: string) => query`
  select h.sequence as last, coalesce(
    (select min(sequence) from events where environment_id = ${environmentId}), h.sequence + 1) as oldest
  from environment_heads h where h.environment_id = ${environmentId}`

/** What there is at this moment. */
export async function readBounds(query: Query, environmentId: string): Promise<Bounds> {
  const [row] = await query<Bounds[]>`${boundsOf(query, environmentId)}`
  return row!
}

/** One window of an environment's events, and what there was at that very moment. `window.after` is a sequence. */
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

/** Their sequences. Of several types, each is looked for by its own index, so that rare ones need no search. */
function find(query: Query, environmentId: string, { types, resource }: EventFilters, window: Window) {
  const own = query`select sequence from events where environment_id = ${environmentId}`
  if (types === null || resource !== null) {
    return query`
      ${own} ${resource === null ? query`` : query`and resource_id = ${resource}`}
      ${types === null ? query`` : query`and type = any(${types})`} ${windowSql(query, window, 'sequence')}`
  }
  return query`
    select each.sequence
    from unnest(${types}::text[]) as asked(type) cross join lateral (
      ${own} and type = asked.type ${windowSql(query, window, 'sequence')}
    ) as each
    order by each.sequence ${window.descending ? query`desc` : query`asc`} limit ${window.limit}`
}

/** Null when there is none with this id in the environment. */
export async function findEvent(query: Query, { environment_id, mode }: Owner, id: string): Promise<EventText | null> {
  const [row] = await query<EventRow[]>`
    select id, type, ${mode}::text as environment, created_at, sequence, request_id, data::text as data
    from events where environment_id = ${environment_id} and id = ${id}`
  return row ? { ordinal: row.sequence, type: row.type, text: envelopeOf(row) } : null
}

/** Refuses to go on after a sequence when what came next is no longer there. */
export function checkKept(after: number, { oldest }: Bounds): void {
  if (after + 1 >= oldest) return
  const detail = `Events after ${after} have been deleted. Read the current state of your resources, then continue with after=${oldest - 1}.`
  throw new ApiError('events_expired', detail, { extensions: { oldest_sequence: oldest } })
}

/** Events that one statement removes at most. */
const BATCH = 10_000

/**
 * Removes the oldest events of an environment as long as they are older than this many days of its time: always the
 * first ones, so that what is left has no gaps. Answers how many those were.
 */
async function forgetOldest(query: Query, environmentId: string, days: number): Promise<number> {
  const gone = await query`
    delete from events v using (
      select o.sequence, bool_and(o.is_old) over (order by o.sequence) as is_old
      from (
        select sequence, created_at < environment_now(${environmentId}) - make_interval(days => ${days}) as is_old
        from events where environment_id = ${environmentId} order by sequence limit ${BATCH}
      ) as o
    ) as w
    where w.is_old and v.environment_id = ${environmentId} and v.sequence = w.sequence`
  return gone.count
}

/** Statements of one look; what is left then is for the next. */
const STATEMENTS = 100

/** Removes events older than this many days of their environment's time, of all tenants, some at a time. */
export async function forgetEvents(query: Query, days: number): Promise<void> {
  const old = await query<{ id: string }[]>`
    select e.id from environments e cross join lateral (
      select created_at from events where environment_id = e.id order by sequence limit 1
    ) as first
    where first.created_at < environment_now(e) - make_interval(days => ${days})`
  const left = old.map(({ id }) => id)
  for (let i = 0; i < STATEMENTS && left.length > 0; i++) {
    const id = left.shift()!
    // Whoever has more comes again after the others.
    if ((await forgetOldest(query, id, days)) === BATCH) left.push(id)
  }
}
