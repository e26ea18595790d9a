/** An entry of the audit log: who wanted to change what, from where, and what came of it. Pure. */
import { isDeepStrictEqual } from 'node:util'
import { digestOf } from '../lib/canonical-json.ts'

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
  const entry = { ...given, ...difference(given.before, given.after) }
  return { entry, digest: digestOf(entry) }
}

/** Fields that every change moves and that say nothing about it. */
const ECHOES = ['version', 'updated_at']

function difference(before: object | null, after: object | null): Pick<Entry, 'before' | 'after'> {
  if (before === null || after === null) return { before, after }
  const differs = (name: string) =>
    !ECHOES.includes(name) && !isDeepStrictEqual(before[name as never], after[name as never])
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(differs)
  const pick = (object: object) =>
    Object.fromEntries(names.filter((name) => name in object).map((name) => [name, object[name as never]]))
  return { before: pick(before), after: pick(after) }
}
