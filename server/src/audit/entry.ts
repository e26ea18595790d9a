/** An entry of the audit log: who wanted to change what, from where, and what came of it. Pure. */
import { digestOf } from '../lib/canonical-json.ts'
import { difference } from '../lib/difference.ts'

/** As the API shows it, without the place in the chain. */
export type Entry = {
  id: string
  /** RFC 3339 with milliseconds, real time. */
  created_at: string
  key_id: string
  address: string | null
  request_id: string
  req_id: string
  /** The operation of the API: `createInstance`. */
  action: string
  /** Identifier of what it was about; null when there is none yet or it was not named. */
  resource: string | null
  outcome: 'done' | 'refused'
  /** Of the answer, with the problem's code where it was refused. */
  status: number
  code: string | null
  /** Of what has changed, the fields as they were and as they are; null before a creation and after an end. */
  before: object | null
  after: object | null
}

/** An entry with the digest that its environment's chain takes in. */
export type AuditEntry = { entry: Entry; digest: Buffer }

/** Completes an entry: what did not change is left out. */
export function auditEntry(given: Entry): AuditEntry {
  const { before, after } = given
  const entry = { ...given, ...(before !== null && after !== null && difference(before, after)) }
  return { entry, digest: digestOf(entry) }
}
