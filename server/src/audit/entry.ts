/** An entry of the audit log: actor, action, resource, outcome and change. Pure. */
import { digestOf } from '../lib/canonical-json.ts'
import { difference } from '../lib/difference.ts'

/** As the API returns it, without sequence and hash. */
export type Entry = {
  id: string
  /** RFC 3339 with milliseconds, real time. */
  created_at: string
  key_id: string
  address: string | null
  request_id: string
  req_id: string
  /** Operation ID, such as `createInstance`. */
  action: string
  /** ID of the resource; null if the request names none and created none. */
  resource: string | null
  outcome: 'done' | 'refused'
  /** HTTP status of the response; `code` is the error code of a refused write. */
  status: number
  code: string | null
  /** The changed fields before and after; null before a creation and after a deletion. `after` of a search: its parameters. */
  before: object | null
  after: object | null
}

/** An entry and its digest, which the hash chain of the environment includes. */
export type AuditEntry = { entry: Entry; digest: Buffer }

/** Reduces `before` and `after` to the changed fields and computes the digest. */
export function auditEntry(full: Entry): AuditEntry {
  const { before, after } = full
  const entry = { ...full, ...(before !== null && after !== null && difference(before, after)) }
  return { entry, digest: digestOf(entry) }
}
