import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import type { Sql } from './database.ts'

const FOLDER = join(import.meta.dirname, '../../migrations')
/** Advisory lock: processes that start at the same time migrate one after the other. */
const LOCK = 7_202_601

type Migration = { number: number; name: string; text: string }

/** The numbered files of `migrations/`, in order. */
export function migrationFiles(): Migration[] {
  return readdirSync(FOLDER)
    .filter((name) => /^\d{4}_.+\.sql$/.test(name))
    .sort()
    .map((name) => ({ number: Number(name.slice(0, 4)), name, text: readFileSync(join(FOLDER, name), 'utf8') }))
}

/**
 * Applies the migrations that the database lacks, each file in its own transaction. Rejects a database that a newer
 * release has migrated, and one whose migrations differ from ours.
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
        `A newer release has migrated the database (to ${newest}, this release to ${files.length}). Start that release, or use another data directory.`,
      )
    }
    let count = 0
    for (const file of files) {
      const digest = digestOf(file)
      const before = applied.find((m) => m.number === file.number)
      if (before?.digest === digest) continue
      if (before && before.digest !== EARLIER_DIGESTS[file.number - 1]) {
        throw new StartupError(`Migration ${file.name} was changed after it was applied to this database.`)
      }
      if (before) {
        await connection`update migrations set digest = ${digest} where number = ${file.number}`
        continue
      }
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

/** Of the statements alone, so that the wording of a comment can change. */
function digestOf({ text }: Migration): string {
  const statements = text.replace(/--.*/g, '').replace(/\s+/g, ' ').trim()
  return createHash('sha256').update(statements).digest('hex')
}

/** Databases of earlier releases recorded the digests of whole files, by which they are recognised: 0001, 0002, … */
export const EARLIER_DIGESTS = [
  'f28977886f1cdef98af9085a93d6f1fec8893deea2dfccf515b92bd9378d303d',
  '40de664f2879bdae823738b2c4cc94ba04ed8ecb32c592c394466fa84020618f',
  '598dfd505cbdf94ed9ab20f13c9271cabc996e5d56f9a502e788547d8e50053d',
  'c323a44d432dc2452f786cc978de10e1c26015c69fa85c81d5aee88c50b259c5',
  '02a97baba86f7815ab609d8949552b071ee1de129bc16a80e237c08f8df0b3b1',
  'd0590578072977f19c279bbbc5f085dedbfb7921cfd64650b9ec9450540403f2',
  '8977c2e0d9c351f815bdf180a630c7e8f16f8679c2e62b5795523557aea940bb',
  '153facfd7a5d66bcbe1592a97ee9864fa71d14fbe43a39d384c9008f2d59e6ec',
  '6eac5eb46369db64a86e97d1d0419f82b99c97f38bba9b25da055c7c730129e9',
  '5ec133656e618d9091f5a01698ec16bee520bbd53fe6366e93827844f9b28862',
  '3a2daaedd649c155b0a7f619e3be9a170c7eb9824d9b980732b499bd94f06703',
]
