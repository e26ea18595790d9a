import type { Config } from '../config.ts'
import { connect, type Sql } from '../db/database.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../db/embedded.ts'
import { migrate } from '../db/migrate.ts'
import type { Clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

const NAME = 'cloudnexus'
/** Unique constraints that treat nulls as equal came with it. */
const OLDEST_VERSION = 15
const CONNECTIONS = 40

export type Database = {
  sql: Sql
  /** For the banner: what it is and where, without a password. */
  description: string
  /** Closes the connections and, when it is ours, ends the server in order. */
  stop(deadlineMs: number): Promise<void>
}

/** Opens the embedded server or the given one and brings the schema up to this release. */
export async function openDatabase(
  { database_url: given, data_dir, run_dir }: Pick<Config, 'database_url' | 'data_dir' | 'run_dir'>,
  { clock, log }: { clock: Clock; log: Log },
): Promise<Database> {
  const embedded = given ? null : await startEmbeddedPostgres({ data_dir, run_dir, clock, log })
  if (embedded) await createIfMissing(embedded)
  const sql = connect({ url: given ?? embedded!.url(NAME), max: CONNECTIONS, name: NAME })
  const stop = async (deadlineMs: number) => {
    await sql.end({ timeout: 2 })
    await embedded?.stop(deadlineMs)
  }
  try {
    const version = await serverVersion(sql, given)
    const count = await migrate(sql)
    if (count > 0) log.info({ migrations: count }, 'the database schema is up to date')
    return {
      sql,
      stop,
      description: given ? `PostgreSQL ${version}, ${locationOf(given)}` : `PostgreSQL ${version}, embedded`,
    }
  } catch (error) {
    await stop(5_000)
    throw error
  }
}

async function createIfMissing(server: EmbeddedPostgres): Promise<void> {
  const admin = connect({ url: server.url('postgres'), max: 1, name: NAME })
  try {
    const [found] = await admin`select 1 from pg_database where datname = ${NAME}`
    if (!found) await admin.unsafe(`create database ${NAME}`)
  } finally {
    await admin.end()
  }
}

async function serverVersion(sql: Sql, given: string | null): Promise<string> {
  const [row] = await sql<{ number: number; version: string }[]>`
    select current_setting('server_version_num')::int as number,
      split_part(current_setting('server_version'), ' ', 1) as version`.catch((error: Error & { code?: string }) => {
    if (!given) throw error
    const reason = error.code === '3D000' ? 'there is no such database; create it' : (error.code ?? error.message)
    throw new StartupError(`The database at ${locationOf(given)} cannot be used: ${reason}. Check DATABASE_URL.`)
  })
  if (row!.number >= OLDEST_VERSION * 10_000) return row!.version
  throw new StartupError(`DATABASE_URL names a PostgreSQL ${row!.version}; ${OLDEST_VERSION} or newer is needed.`)
}

/** Host and database of a connection string, never user or password. */
export function locationOf(url: string): string {
  const parsed = new URL(url.replace('@/', '@localhost/'))
  return `${parsed.searchParams.get('host') ?? parsed.host}${parsed.pathname}`
}
