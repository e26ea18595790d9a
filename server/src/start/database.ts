import type { Config } from '../config.ts'
import { connect, type Sql } from '../db/database.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../db/embedded.ts'
import { migrate } from '../db/migrate.ts'
import { type Group, groupsExist, missingPrivileges, openRoles, roleMisconfiguration } from '../db/roles.ts'
import type { Clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'

const NAME = 'cloudnexus'
/** The first version with UNIQUE NULLS NOT DISTINCT. */
const OLDEST_VERSION = 15
/** Requests and reconcile passes use the tenant connections; the engine's own statements are short. */
const TENANT_CONNECTIONS = 40
const ENGINE_CONNECTIONS = 20
const OWNER_CONNECTIONS = 2

export type Database = {
  /** The engine's role, and with `as` the tenants' role. */
  sql: Sql
  /** The owner of the tables, for writes at start. The caller ends it after them. */
  owner: Sql
  /** Version and location for the banner, without a password. */
  description: string
  /** Closes the connections and stops the embedded server. */
  stop(deadlineMs: number): Promise<void>
}

type Settings = Pick<Config, 'database_url' | 'database_app_url' | 'database_engine_url' | 'data_dir' | 'run_dir'>
/** The installation whose login roles they are, and the secret of their passwords. */
type Logins = { installation_id: string; database_key: Uint8Array }

/** Opens the embedded server or the given one, runs the migrations and checks the roles. */
export async function openDatabase(
  settings: Settings,
  logins: Logins,
  { clock, log }: { clock: Clock; log: Log },
): Promise<Database> {
  const { database_url: given, data_dir, run_dir } = settings
  const embedded = given ? null : await startEmbeddedPostgres({ data_dir, run_dir, clock, log })
  if (embedded) await createIfMissing(embedded)
  const url = given ?? embedded!.url(NAME)
  const owner = connect({ url, max: OWNER_CONNECTIONS, name: NAME })
  let sql: Sql | null = null
  const stop = async (deadlineMs: number) => {
    await Promise.all([owner.end({ timeout: 2 }), sql?.end({ timeout: 2 })])
    await embedded?.stop(deadlineMs)
  }
  try {
    const version = await serverVersion(owner, given)
    await checkPrivileges(owner, settings)
    const count = await migrate(owner)
    if (count > 0) log.info({ migrations: count }, 'migrated the database')
    const urls = await urlsOf(owner, url, settings, logins)
    const tenants = { url: urls.cn_app, max: TENANT_CONNECTIONS }
    sql = connect({ url: urls.cn_engine, max: ENGINE_CONNECTIONS, name: NAME, tenants })
    await checkRole(sql, 'cn_engine', 'DATABASE_ENGINE_URL')
    await checkRole(sql.as('none'), 'cn_app', 'DATABASE_APP_URL')
    return {
      sql,
      owner,
      stop,
      description: given ? `PostgreSQL ${version}, ${locationOf(given)}` : `PostgreSQL ${version}, embedded`,
    }
  } catch (error) {
    await stop(5_000)
    throw error
  }
}

/** Rejects, before any write, an owner that cannot create the roles if they do not exist. */
async function checkPrivileges(owner: Sql, { database_app_url }: Settings): Promise<void> {
  const missing = await missingPrivileges(owner)
  if (missing === null || (database_app_url !== null && (await groupsExist(owner)))) return
  throw new StartupError(
    `The role of DATABASE_URL cannot create the roles that keep tenants apart. Run as a superuser: ${missing} Or create the roles and set DATABASE_APP_URL and DATABASE_ENGINE_URL; see docs/running.md.`,
  )
}

async function urlsOf(owner: Sql, url: string, settings: Settings, logins: Logins): Promise<Record<Group, string>> {
  const { database_app_url: cn_app, database_engine_url: cn_engine } = settings
  if (cn_app !== null && cn_engine !== null) return { cn_app, cn_engine }
  return openRoles(owner, url, logins.installation_id, logins.database_key)
}

/** Rejects a role that row-level security does not apply to, or that cannot use its tables. */
async function checkRole(sql: Sql, group: Group, setting: string): Promise<void> {
  const reason = await roleMisconfiguration(sql, group).catch((error: Error & { code?: string }) => {
    throw new StartupError(`Cannot open the database with ${setting} (${error.code ?? error.message}). Check the URL.`)
  })
  if (reason === null) return
  throw new StartupError(
    `The role of ${setting} ${reason}. Use a role that is only in ${group}, owns no table and has no BYPASSRLS.`,
  )
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
    const reason = error.code === '3D000' ? 'the database does not exist; create it' : (error.code ?? error.message)
    throw new StartupError(`Cannot open the database at ${locationOf(given)}: ${reason}. Check DATABASE_URL.`)
  })
  if (row!.number >= OLDEST_VERSION * 10_000) return row!.version
  throw new StartupError(
    `DATABASE_URL is a PostgreSQL ${row!.version}; version ${OLDEST_VERSION} or newer is required.`,
  )
}

/** Host and database of a connection string, without user and password. */
function locationOf(url: string): string {
  const parsed = new URL(url.replace('@/', '@localhost/'))
  return `${parsed.searchParams.get('host') ?? parsed.host}${parsed.pathname}`
}
