/**
 * Finds secrets that a database or a log must not contain: API keys, private keys, and the canary that tests put into
 * user data. Every test database is searched before it is dropped, and every log that a test has written.
 */
import assert from 'node:assert/strict'
import type { Query } from './database.ts'

/** Tests put this text into secret fields. */
export const CANARY = 'canary7Qd0secret'

const FORMS = [CANARY, Buffer.from(CANARY).toString('hex'), ...base64Forms(CANARY)]
const PATTERNS = [/cn_(live|test)_sk_[0-9A-Za-z]{38}/, /whsec_[0-9A-Za-z+/=]{24}/, /-----BEGIN [A-Z ]*PRIVATE KEY/]

/** The secrets in a text, each with its surrounding text. */
export function secretsIn(text: string): string[] {
  const places = [...FORMS.map((form) => text.indexOf(form)), ...PATTERNS.map((pattern) => text.search(pattern))]
  return places.filter((at) => at >= 0).map((at) => text.slice(Math.max(0, at - 60), at + 60))
}

/** Asserts that no row of any table contains a secret. */
export async function assertNoSecrets(query: Query): Promise<void> {
  const tables = await query<{ name: string }[]>`
    select format('%I', relname) as name from pg_class
    where relnamespace = 'public'::regnamespace and relkind = 'r' order by relname`
  for (const { name } of tables) {
    const rows = await query.unsafe<{ row: string }[]>(`select t::text as row from ${name} t`)
    for (const { row } of rows) assert.deepEqual(secretsIn(row), [], `${name} contains a secret`)
  }
}

/** Base64 encodes a text differently at each of three offsets. Characters that depend on neighbouring text are removed. */
function base64Forms(text: string): string[] {
  return [0, 1, 2].map((offset) => {
    const encoded = Buffer.from('\0'.repeat(offset) + text).toString('base64')
    return encoded.slice(offset === 0 ? 0 : offset + 1, -4)
  })
}
