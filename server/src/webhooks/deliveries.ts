/** Every SQL statement on deliveries and their attempts. */
import type { Query, Sql, Transaction } from '../db/database.ts'
import type { Statement } from '../db/sql.ts'
import { withLease } from '../engine/record.ts'
import type { Claim } from '../engine/work.ts'
import type { EventRow } from '../events/envelope.ts'
import type { OutboxDeps } from '../events/outbox.ts'
import { commaList, type Window, windowSql } from '../http/list.ts'
import { ApiError, notFound } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import type { Attempt, AttemptRow, Cause, DeliveryRow, DeliveryStatus } from './row.ts'

export type DeliveryFilters = { status?: string; type?: string; event?: string }

/** One page of the deliveries of a webhook. */
export async function listDeliveries(
  sql: Sql,
  webhookId: string,
  { status, type, event }: DeliveryFilters,
  window: Window,
): Promise<DeliveryRow[]> {
  const [statuses, types] = [commaList(status), commaList(type)]
  return sql<DeliveryRow[]>`
    select * from webhook_deliveries where webhook_id = ${webhookId}
    ${statuses ? sql`and status = any(${statuses})` : sql``} ${types ? sql`and event_type = any(${types})` : sql``}
    ${event ? sql`and event_sequence = (select sequence from events where id = ${event})` : sql``}
    ${windowSql(sql, window)}`
}

/** Throws `not_found`. */
export async function getDelivery(query: Query, webhookId: string, id: string): Promise<DeliveryRow> {
  const [row] = await query<DeliveryRow[]>`
    select * from webhook_deliveries where id = ${id} and webhook_id = ${webhookId}`
  if (!row) throw notFound('delivery', id)
  return row
}

/** The attempts of a delivery in order. */
export async function listAttempts(query: Query, deliveryId: string): Promise<AttemptRow[]> {
  return query<AttemptRow[]>`select * from webhook_attempts where delivery_id = ${deliveryId} order by number`
}

type Target = { environment_id: string; webhook_id: string }

/** Queues another delivery of an event, due immediately. Throws `conflict` when the event was deleted. */
export async function insertResend(
  tx: Transaction,
  random: Random,
  { environment_id, webhook_id }: Target,
  sequence: number,
): Promise<DeliveryRow> {
  const [row] = await tx<DeliveryRow[]>`
    insert into webhook_deliveries
      (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, due_at, created_at)
    select environment_id, ${newId('dlv', random)}, ${webhook_id}, id, sequence, type, 'resend', now, now
    from events, environment_now(${environment_id}) as now
    where environment_id = ${environment_id} and sequence = ${sequence}
    returning *`
  if (row) return row
  throw new ApiError('conflict', 'The event is past its retention, so it cannot be resent.')
}

/** A replay of a range of sequence numbers, both ends included, or of all events that failed since a time. */
export type ReplayOf = { from_sequence: number; to_sequence: number } | { failed_since: Date }

/** Maximum number of events in one replay, and of pending deliveries of all replays of a webhook. */
const MAX_REPLAYED = 10_000
/** Replayed events per second of the environment's time. */
const REPLAYED_PER_SECOND = 20

/**
 * Queues events again, spread over time after pending replays. Returns the number of deliveries, the sequence number of the
 * first event that one replay did not take, and when the last delivery is due.
 * @param types the event types of the webhook
 */
export async function insertReplay(
  tx: Transaction,
  random: Random,
  { environment_id, webhook_id }: Target,
  which: ReplayOf,
  types: string[],
): Promise<{ deliveries: number; next_sequence: number | null; until: Date | null }> {
  const found = await findReplayed(tx, { environment_id, webhook_id }, which, types)
  const more = found.length > MAX_REPLAYED ? found[MAX_REPLAYED]!.sequence : null
  const some = found.slice(0, MAX_REPLAYED)
  const [waiting] = await tx<{ count: number; last: Date | null }[]>`
    select count(*) as count, max(due_at) as last from webhook_deliveries
    where webhook_id = ${webhook_id} and status = 'pending' and cause = 'replay'`
  if (waiting!.count + some.length > MAX_REPLAYED) {
    const detail = `${waiting!.count} replayed events are still pending; the limit is ${MAX_REPLAYED}. Wait until some are delivered, or replay fewer.`
    throw new ApiError('conflict', detail)
  }
  const rows = await tx<{ due_at: Date }[]>`
    insert into webhook_deliveries
      (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, due_at, created_at)
    select e.environment_id, r.id, ${webhook_id}, e.id, e.sequence, e.type, 'replay',
      greatest(now, ${waiting!.last}::timestamptz) + make_interval(secs => r.number::float8 / ${REPLAYED_PER_SECOND}::float8), now
    from environment_now(${environment_id}) as now,
      unnest(${some.map(() => newId('dlv', random))}::text[], ${some.map(({ sequence }) => sequence)}::bigint[])
        with ordinality as r(id, sequence, number)
      join events e on e.environment_id = ${environment_id} and e.sequence = r.sequence
    order by r.number
    returning due_at`
  return { deliveries: rows.length, next_sequence: more, until: rows.at(-1)?.due_at ?? null }
}

function findReplayed(tx: Transaction, { environment_id, webhook_id }: Target, which: ReplayOf, types: string[]) {
  if ('from_sequence' in which) {
    return tx<{ sequence: number }[]>`
      select sequence from events
      where environment_id = ${environment_id} and sequence between ${which.from_sequence} and ${which.to_sequence}
        and type = any(${types})
      order by sequence limit ${MAX_REPLAYED + 1}`
  }
  return tx<{ sequence: number }[]>`
    select d.event_sequence as sequence from webhook_deliveries d
    where d.webhook_id = ${webhook_id} and d.created_at >= ${which.failed_since} and d.event_type = any(${types})
    group by d.event_sequence
    having bool_or(d.status in ('failed', 'cancelled')) and not bool_or(d.status in ('succeeded', 'pending'))
    order by d.event_sequence limit ${MAX_REPLAYED + 1}`
}

/** A delivery that is due, with its event. */
export type Due = EventRow & {
  delivery_id: string
  /** The event was deleted, and its fields are null. */
  expired: boolean
  resource_id: string
  cause: Cause
  /** Number of attempts so far. */
  attempts: number
}

/** Deliveries that are due, replays last, except those that are being sent. */
export async function dueDeliveries(sql: Sql, webhookId: string, except: string[], limit: number): Promise<Due[]> {
  const some = (cause: ReturnType<Query>) => sql`
    (select d.* from webhook_deliveries d
     where d.webhook_id = ${webhookId} and d.status = 'pending' and ${cause} and d.due_at <= environment_now(d.environment_id)
       and d.id <> all(${except})
     order by d.due_at, d.ordinal limit ${limit})`
  return sql<Due[]>`
    select d.id as delivery_id, d.cause, d.attempts, e.id is null as expired, e.id, e.type, n.mode as environment, e.created_at, e.sequence,
      e.request_id, e.resource_id, e.data::text as data
    from (
      select * from (
        select 1 as rank, fresh.* from ${some(sql`d.cause <> 'replay'` as never)} as fresh
        union all
        select 2 as rank, old.* from ${some(sql`d.cause = 'replay'` as never)} as old
      ) as found order by rank, due_at, ordinal limit ${limit}
    ) as d
      left join events e on e.environment_id = d.environment_id and e.sequence = d.event_sequence
      join environments n on n.id = d.environment_id
    order by d.rank, d.due_at, d.ordinal`
}

/** Seconds from a time of the environment until a delivery is due or must be cancelled; null if none is pending. */
export async function secondsUntilDue(query: Query, webhookId: string, since: Date): Promise<number | null> {
  const [row] = await query<{ seconds: number | null }[]>`
    select extract(epoch from min(case when w.wanted_enabled and w.observed_disabled_reason is null then d.due_at
      else ${since} end) - ${since}::timestamptz)::float8 as seconds
    from webhook_deliveries d join webhooks w on w.id = d.webhook_id
    where d.webhook_id = ${webhookId} and d.status = 'pending'`
  return row!.seconds === null ? null : Math.max(0, row!.seconds)
}

/** The outcome of an attempt, or of the pass that cancelled the delivery. */
export type Outcome = {
  delivery_id: string
  status: DeliveryStatus
  reason: string | null
  /** Number of attempts, including this one. */
  attempts: number
  /** Seconds until the next attempt of a pending delivery. */
  after_seconds: number | null
  attempt: Attempt | null
}

/** Records outcomes of deliveries under the lease of the claim; `also` is written before, in the same transaction. */
export async function recordDeliveries(
  deps: OutboxDeps,
  claimed: Claim,
  outcomes: Outcome[],
  also: ((tx: Transaction) => Promise<void>) | null,
): Promise<void> {
  const { environment_id } = claimed
  const attempts = outcomes.flatMap(({ delivery_id, attempts, attempt }) =>
    attempt ? [{ environment_id, delivery_id, number: attempts, ...attempt }] : [],
  )
  await withLease(deps, claimed, async (tx) => {
    await also?.(tx)
    await tx`
      update webhook_deliveries d set status = o.status, reason = o.reason, attempts = o.attempts,
        due_at = case when o.status = 'pending' then now + make_interval(secs => o.after_seconds) end,
        finished_at = case when o.status <> 'pending' then now end
      from environment_now(${environment_id}) as now,
        json_to_recordset(${tx.json(outcomes.map(({ attempt: _, ...outcome }) => outcome))}::json)
          as o(delivery_id text, status text, reason text, attempts integer, after_seconds float8)
      where d.id = o.delivery_id and d.status = 'pending'`
    if (attempts.length > 0) {
      await tx`
        insert into webhook_attempts
        select * from json_populate_recordset(null::webhook_attempts, ${tx.json(attempts)}::json)
        on conflict do nothing`
    }
  })
}

/** Cancels up to `limit` pending deliveries if the webhook is still disabled. Returns their number. */
export async function cancelSome(deps: OutboxDeps, claimed: Claim, limit: number): Promise<number> {
  return withLease(deps, claimed, async (tx) => {
    // Locked, so that deliveries are not cancelled while another transaction enables the webhook.
    const disabled = await tx`
      select from webhooks where id = ${claimed.id}
        and (not wanted_enabled or wanted_gone or observed_disabled_reason is not null) for share`
    if (disabled.length === 0) return 0
    const { count } = await tx`
      update webhook_deliveries set status = 'cancelled', reason = 'disabled', due_at = null,
        finished_at = environment_now(environment_id)
      where id in (
        select id from webhook_deliveries where webhook_id = ${claimed.id} and status = 'pending' limit ${limit})`
    return count
  })
}

/** Deletes up to `limit` deliveries of a deleted webhook. Returns their number. */
export async function deleteSome(query: Query, webhookId: string, limit: number): Promise<number> {
  const { count } = await query`
    delete from webhook_deliveries where id in (
      select id from webhook_deliveries where webhook_id = ${webhookId} limit ${limit})`
  return count
}

/** Deletes deliveries recorded more than this many days ago, of all tenants, at most `limit`. Returns how many. */
export async function purgeDeliveries(sql: Sql, days: number, limit: number): Promise<number> {
  const { count } = await sql`
    delete from webhook_deliveries where id in (
      select id from webhook_deliveries where recorded_at < now() - make_interval(days => ${days})
      order by recorded_at limit ${limit})`
  return count
}

/** Whether a webhook, `r`, has work to do: it is to be deleted or has pending deliveries. */
export function needsWork(query: Query) {
  const hasPending = (cause: Statement<unknown>) => query`exists (
    select from webhook_deliveries d where d.webhook_id = r.id and d.status = 'pending' and ${cause})`
  return query`(r.wanted_gone or ${hasPending(query`d.cause <> 'replay'`)} or ${hasPending(query`d.cause = 'replay'`)})`
}
