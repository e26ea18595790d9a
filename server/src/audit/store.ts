/** Every SQL statement that reads the audit log; the outbox inserts entries. */
import type { Static, TObject } from 'typebox'
import type { Query } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { commaList, type Window, windowSql } from '../http/list.ts'
import { newId } from '../lib/id.ts'
import { auditEntry, type Entry, type AuditEntry as NewEntry } from './entry.ts'
import type { AuditEntry, auditFilters } from './schema.ts'

export type AuditRow = Omit<Entry, 'created_at'> & { ordinal: number; sequence: number; created_at: Date; hash: Buffer }
export type AuditFilters = Static<TObject<typeof auditFilters>>

/** A row as the API returns it. */
export function showEntry({ ordinal: _, created_at, hash, ...row }: AuditRow): Static<typeof AuditEntry> {
  return { ...row, created_at: created_at.toISOString(), hash: hash.toString('hex') }
}

/** One page of an environment's entries. */
export async function listEntries(
  query: Query,
  environmentId: string,
  filters: AuditFilters,
  window: Window,
): Promise<AuditRow[]> {
  const { resource, key, request_id, outcome, from, to } = filters
  const actions = commaList(filters.action)
  return await query<AuditRow[]>`
    select * from (
      select sequence as ordinal, sequence, id, created_at, key_id, address, request_id, req_id, action, resource, outcome,
        status, code, before, after, hash
      from audit_log where environment_id = ${environmentId}
    ) as log where true
    ${actions ? query`and action = any(${actions})` : query``}
    ${resource ? query`and resource = ${resource}` : query``} ${key ? query`and key_id = ${key}` : query``}
    ${request_id ? query`and (request_id = ${request_id} or req_id = ${request_id})` : query``}
    ${outcome ? query`and outcome = ${outcome}` : query``}
    ${from ? query`and created_at >= ${from}` : query``} ${to ? query`and created_at < ${to}` : query``}
    ${windowSql(query, window)}`
}

/** An entry for a change that no request caused; `key_id` is the key that created the resource. */
export function ownEntry(
  { random, clock }: Pick<Deps, 'random' | 'clock'>,
  done: Pick<Entry, 'key_id' | 'action' | 'resource' | 'code' | 'before' | 'after'>,
): NewEntry {
  const req_id = newId('req', random)
  return auditEntry({
    id: newId('aud', random),
    created_at: clock.now().toISOString(),
    address: null,
    request_id: req_id,
    req_id,
    outcome: 'done',
    status: 200,
    ...done,
  })
}
