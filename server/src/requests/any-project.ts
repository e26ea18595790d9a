/**
 * The request log of all projects, for the operator. Row-level security admits these statements only in an environment of the
 * first project and in a transaction that asks for it, so a statement without that reads no row of another tenant.
 */
import type { Sql, Transaction } from '../db/database.ts'
import { belongsToOperator } from '../db/operator.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError } from '../lib/errors.ts'
import { isId } from '../lib/id.ts'
import type { AnyRequestRow } from './row.ts'
import type { Filters } from './schema.ts'
import { conditions, MAX_OTHERS, search } from './store.ts'

/** Throws 403 unless the key has the scope `admin` and belongs to the first project. */
export async function requireOperator(sql: Sql, { scopes, environment_id }: Principal): Promise<void> {
  const rule = "project=any requires a key of the first project, the operator's, with the scope admin."
  if (!scopes.includes('admin')) throw forbidden(`${rule} Your key does not have that scope.`, 'admin')
  if (!(await belongsToOperator(sql, environment_id))) throw forbidden(`${rule} Your key belongs to another project.`)
}

function forbidden(detail: string, required_scope?: string): ApiError {
  return new ApiError('insufficient_scope', detail, {
    errors: [{ parameter: 'project', code: 'operator_only', message: detail }],
    ...(required_scope && { extensions: { required_scope } }),
  })
}

/** One page of the requests of all projects, and of those without a valid key. */
export async function listAnyRequests(sql: Sql, filters: Filters, window: Window): Promise<AnyRequestRow[]> {
  return search(sql, async (tx) => {
    await admitAll(tx)
    return selectAny(tx, filters, window)
  })
}

/** A request by its ID, or the newest one with this X-Request-ID, and others with the same X-Request-ID; null if there is none. */
export async function findAnyRequest(
  sql: Sql,
  id: string,
): Promise<{ row: AnyRequestRow; others: AnyRequestRow[] } | null> {
  return search(sql, async (tx) => {
    await admitAll(tx)
    const row = isId('req', id) ? await selectById(tx, id) : null
    const request_id = row?.request_id ?? id
    const same = await selectAny(tx, { request_id }, { after: null, descending: true, limit: MAX_OTHERS + 1 })
    const found = row ?? same[0]
    if (!found) return null
    return { row: found, others: same.filter((other) => other.id !== found.id).slice(0, MAX_OTHERS) }
  })
}

/** Admits the rows of all projects in this transaction, if its environment belongs to the operator. */
async function admitAll(tx: Transaction): Promise<void> {
  await tx`select set_config('cloudnexus.all_projects', 'on', true)`
}

async function selectById(tx: Transaction, id: string): Promise<AnyRequestRow | null> {
  const [row] = await tx<AnyRequestRow[]>`
    select r.*, e.project_id, e.mode from requests r left join all_environments() e on e.id = r.environment_id
    where r.id = ${id}`
  return row ?? null
}

/** Reads each environment through its own indexes, so that no index of the log has to serve the operator alone. */
async function selectAny(tx: Transaction, filters: Filters, window: Window): Promise<AnyRequestRow[]> {
  const end = tx`${conditions(tx, filters)} ${windowSql(tx, window)}`
  return tx<AnyRequestRow[]>`
    select * from (
      select r.*, e.project_id, e.mode from all_environments() e
        cross join lateral (select * from requests where environment_id = e.id ${end}) r
      union all
      select r.*, null, null from (select * from requests where environment_id is null ${end}) r
    ) as found where true ${windowSql(tx, window)}`
}
