/** The ticks of a history as text, to explain a failing seed, and its hash, to compare two runs of a seed. */
import { createHash } from 'node:crypto'
import type { Query } from '../db/database.ts'

export type History = {
  /** Adds a line. */
  add(line: string): void
  /** The last lines. */
  tail(count: number): string[]
  /** The hash of all lines and of the rows at the end. */
  hash(owner: Query): Promise<string>
}

/**
 * Tables whose rows repeat. Lease numbers are excluded: the database chooses the order of the keys of one claim. So are tables with
 * digests of secrets.
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
    add: (line) => void lines.push(line),
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
