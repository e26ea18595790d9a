import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import type { Sql } from './database.ts'

const FOLDER = join(import.meta.dirname, '../../migrations')
/** Any number that nothing else locks; two processes that start together migrate one after the other. */
const LOCK = 7_202_601

/** The numbered files of `migrations/`, in order. */
export function migrationFiles(): { number: number; name: string; text: string }[] {
  return readdirSync(FOLDER)
    .filter((name) => /^\d{4}_.+\.sql$/.test(name))
    .sort()
    .map((name) => ({ number: Number(name.slice(0, 4)), name, text: readFileSync(join(FOLDER, name), 'utf8') }))
}

/**
 * Brings the database up to this release, each file in a transaction of its own, forward only. Refuses a database that
 * a newer release has touched, and one whose past differs from ours.
 * @returns how many files were applied
 */
export async function migrate(sql: Sql): Promise<number> {
  const connection = await sql.reserve()
  try {
    await connection`select pg_advisory_lock(${LOCK})`
    await connection`create table if not exists migrations (
      number integer primary key, name text not null, digest text not null, applied_at timestamptz not null default now())`
    const applied = await connection<{ number: number; name: string; digest: string }[]>`select * from migrations`
    const files = migrationFiles()
    const newest = Math.max(0, ...applied.map((m) => m.number))
    if (newest > files.length) {
      throw new StartupError(
        `The database is of a newer version (migration ${newest}, this release knows ${files.length}). Start that release, or give another data directory.`,
      )
    }
    let count = 0
    for (const file of files) {
      const digest = createHash('sha256').update(file.text).digest('hex')
      const before = applied.find((m) => m.number === file.number)
      if (before && before.digest !== digest) {
        throw new StartupError(`Migration ${file.name} was changed after it had been applied to this database.`)
      }
      if (before) continue
      await connection.unsafe(
        `begin; ${file.text}; insert into migrations (number, name, digest) values (${file.number}, '${file.name}', '${digest}'); commit`,
      )
      count++
    }
    return count
  } finally {
    await connection`select pg_advisory_unlock(${LOCK})`.catch(() => {})
    connection.release()
  }
}
