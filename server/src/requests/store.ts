/** Every SQL statement on the request log. */
import type { Query, Sql, Transaction } from '../db/database.ts'
import { commaList, type Window, windowSql } from '../http/list.ts'
import { ApiError } from '../lib/errors.ts'
import { isId } from '../lib/id.ts'
import { type NewRequest, type NewSpan, type RequestRow, type SpanRow, TICKS } from './row.ts'
import type { Filters } from './schema.ts'

export type Batch = { requests: NewRequest[]; spans: NewSpan[] }

/**
 * Writes requests and spans of all environments in one statement, so all of them or none. Rows of environments that were
 * deleted with their project are left out; a deletion waits for the statement. `isRetry`: the outcome of an
 * earlier attempt is unknown, so rows that it wrote are not inserted twice.
 */
export async function insertBatch(sql: Sql, { requests, spans }: Batch, isRetry: boolean): Promise<void> {
  const environments = [...new Set([...requests, ...spans].flatMap(({ environment_id }) => environment_id ?? []))]
  await sql`
    with existing as materialized (select id from lock_environments(${environments}) as id),
    span as (
      insert into spans
        (environment_id, request_id, resource, started_at, name, kind, duration_ms, status, waits_for, detail)
      select * from json_to_recordset(${sql.json(spans)}::json) as s(environment_id text, request_id text, resource text,
        started_at timestamptz, name text, kind text, duration_ms float8, status text, waits_for text, detail jsonb)
      where environment_id in (select id from existing)
      on conflict do nothing
    )
    insert into requests (ordinal, time, id, environment_id, request_id, key_id, method, route, resource, status, code,
      duration_ms, address, user_agent, aborted, sample_rate, transactions)
    select at * ${TICKS}::bigint + nextval('request_ticks'), to_timestamp(at / 1000.0), id, environment_id, request_id,
      key_id, method, route, resource, status, code, duration_ms, address, user_agent, aborted, sample_rate, transactions
    from json_to_recordset(${sql.json(requests)}::json) as r(at bigint, id text, environment_id text, request_id text,
      key_id text, method text, route text, resource text, status smallint, code text, duration_ms float8, address text,
      user_agent text, aborted boolean, sample_rate real, transactions jsonb)
    where (environment_id is null or environment_id in (select id from existing))
      and (not ${isRetry}::boolean or not exists (select from requests known where known.id = r.id))`
}

/** Creates the partitions of the next days and drops old ones; returns the number of changes. */
export async function rotateDays(query: Query, days: number): Promise<number> {
  const [row] = await query<{ changes: number }[]>`select keep_request_days(${days}) as changes`
  return row!.changes
}

/** Timeout of a search; filters that match few rows over a long time must be narrowed. */
const SEARCH_TIMEOUT_MS = 5_000
const QUERY_CANCELED = '57014'

/** One page of an environment's requests. */
export async function listRequests(
  sql: Sql,
  environmentId: string,
  filters: Filters,
  window: Window,
): Promise<RequestRow[]> {
  return search(
    sql,
    (tx) => tx<RequestRow[]>`
      select * from requests where environment_id = ${environmentId} ${conditions(tx, filters)} ${windowSql(tx, window)}`,
  )
}

/** Runs a search in a transaction with a timeout. Throws `unavailable` when it exceeds the timeout. */
export async function search<T>(sql: Sql, body: (tx: Transaction) => PromiseLike<T>): Promise<T> {
  const searched = sql.begin(async (tx) => {
    await tx.unsafe(`set local statement_timeout = ${SEARCH_TIMEOUT_MS}`)
    return await body(tx)
  })
  return searched.catch((error: Error & { code?: string }) => {
    if (error.code !== QUERY_CANCELED) throw error
    const detail = 'The search exceeds its time limit. Narrow it with from and to, or filter by resource.'
    throw new ApiError('unavailable', detail, { headers: { 'retry-after': '1' }, cause: error })
  })
}

/** The filters as conditions on `requests`. */
export function conditions(query: Query, filters: Filters) {
  const any = (column: string, text: string | undefined) => {
    const values = commaList(text)
    if (values === null) return query``
    // For one value, the indexes have the rows in the order of the list.
    return values.length === 1
      ? query`and ${query(column)} = ${values[0]}`
      : query`and ${query(column)} = any(${values})`
  }
  return query`
    ${statusFilter(query, filters)}
    ${any('resource', filters.resource)} ${any('key_id', filters.key)} ${any('method', filters.method)}
    ${any('route', filters.route)} ${any('request_id', filters.request_id)} ${any('code', filters.code)}
    ${filters.from === undefined ? query`` : query`and ordinal >= ${firstOrdinal(filters.from)}`}
    ${filters.to === undefined ? query`` : query`and ordinal < ${firstOrdinal(filters.to)}`}`
}

/** The lowest ordinal at a time. */
const firstOrdinal = (text: string): number => Date.parse(text) * TICKS

/** Statuses and classes such as `404` and `5xx`. A filter that matches only failures adds the condition of their partial index. */
function statusFilter(query: Query, { status, code }: Filters) {
  const values = commaList(status)
  const failed = code !== undefined || values?.every((value) => value[0]! >= '4')
  const only = failed ? query`and status >= 400` : query``
  if (!values) return only
  const exact = values.filter((value) => /^\d+$/.test(value)).map(Number)
  const classes = values.filter((value) => /xx$/.test(value)).map((value) => Number(value[0]))
  return query`${only} and (status = any(${exact}::int[]) or status / 100 = any(${classes}::int[]))`
}

/** Finds a request by ID, or the newest one with this X-Request-ID. */
export async function findRequest(query: Query, environmentId: string, id: string): Promise<RequestRow | null> {
  const column = query(isId('req', id) ? 'id' : 'request_id')
  const [row] = await query<RequestRow[]>`
    select * from requests where environment_id = ${environmentId} and ${column} = ${id} order by ordinal desc limit 1`
  return row ?? null
}

/** Maximum number of other requests with the same X-Request-ID. */
export const MAX_OTHERS = 20
/** Maximum number of writes with the same X-Request-ID that a trace distinguishes. */
const MAX_WRITES = 100
/** Maximum number of spans, and of events, in a trace. */
const MAX_SPANS = 1_000

/** An event that a request caused, with the real time at which it was recorded. */
export type EventMark = { id: string; type: string; resource_id: string; sequence: number; recorded_at: Date }

/** Rows of a trace: requests with the same X-Request-ID, newest first, and its spans and events. */
export type TraceRows = { others: RequestRow[]; writes: RequestRow[]; spans: SpanRow[]; events: EventMark[] }

/** The trace of a request that caused nothing. */
export const NO_TRACE: TraceRows = { others: [], writes: [], spans: [], events: [] }

export async function traceOf(query: Query, environmentId: string, row: RequestRow): Promise<TraceRows> {
  const { request_id, id, time } = row
  const same = query`environment_id = ${environmentId} and request_id = ${request_id}`
  const [others, writes, spans, events] = await Promise.all([
    query<RequestRow[]>`select * from requests where ${same} and id <> ${id} order by ordinal desc limit ${MAX_OTHERS}`,
    query<RequestRow[]>`
      select * from requests where ${same} and method not in ('GET', 'HEAD') and status < 400
      order by ordinal desc limit ${MAX_WRITES}`,
    query<SpanRow[]>`
      select * from spans where ${same} and started_at >= ${time} order by started_at limit ${MAX_SPANS}`,
    query<EventMark[]>`
      select id, type, resource_id, sequence, recorded_at from events
      where ${same} and recorded_at >= ${time} order by sequence limit ${MAX_SPANS}`,
  ])
  return { others: [...others], writes: [...writes], spans: [...spans], events: [...events] }
}
