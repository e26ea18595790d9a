/** What happened, as text: to understand a failing seed, and to compare two runs of a seed by a hash. */
import { createHash } from 'node:crypto'
import type { Query } from '../db/database.ts'

export type History = {
  /** Adds a line. */
  note(line: string): void
  /** The last lines. */
  tail(count: number): string[]
  /** Of all lines, and of what stands in the database at the end. */
  hash(owner: Query): Promise<string>
}

/**
 * Columns that hold secrets' digests or the ways of the database itself are left out; all else repeats. So are the
 * numbers of claims: in which order the keys of one claim get theirs is the database's choice.
 */
const TABLES = [
  'events',
  'instances',
  'environment_heads',
  'budgets',
  'addresses',
  'audit_log',
  'simulated_machines',
  'work',
  'idempotency_keys',
  'webhook_deliveries',
  'webhook_attempts',
]

export function createHistory(): History {
  const lines: string[] = []
  return {
    note: (line) => void lines.push(line),
    tail: (count) => lines.slice(-count),
    async hash(owner) {
      const hash = createHash('sha256').update(lines.join('\n'))
      for (const table of TABLES) {
        const rows = await owner.unsafe<{ row: string }[]>(
          `select (to_jsonb(t) - 'lease')::text as row from ${table} t`,
        )
        for (const row of rows.map((each) => each.row).sort()) hash.update(row)
      }
      return hash.digest('hex').slice(0, 16)
    },
  }
}
