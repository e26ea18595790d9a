import type { Config } from '../config.ts'
import { type Connect, connect, type Sql } from '../db/database.ts'
import { createEmbeddedPostgres, type EmbeddedPostgres } from '../db/embedded.ts'
import { migrate } from '../db/migrate.ts'
import { type Group, groupsExist, missingPrivileges, openRoles, roleMisconfiguration } from '../db/roles.ts'
import type { Clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Steps } from './shutdown.ts'

const NAME = 'cloudnexus'
/** The first version with UNIQUE NULLS NOT DISTINCT. */
const OLDEST_VERSION = 15
/** Requests and reconcile passes use the tenant connections; the engine's own statements are short. */
const TENANT_CONNECTIONS = 40
const ENGINE_CONNECTIONS = 20
const OWNER_CONNECTIONS = 2
/** For busy connections at shutdown. */
const CONNECTIONS_STOP_MS = 500
/** For the checkpoint at shutdown; afterwards the server stops without one and recovers at its next start. */
const POSTGRES_STOP_MS = 2_000

export type Database = {
  /** The engine's role, and with `as` the tenants' role. */
  sql: Sql
  /** The owner of the tables, for writes at start. The caller ends it after them. */
  owner: Sql
  /** Version and location for the banner, without a password. */
  description: string
}

type Settings = Pick<Config, 'database_url' | 'database_app_url' | 'database_engine_url' | 'data_dir' | 'run_dir'>
/** The installation whose login roles they are, and the secret of their passwords. */
type Logins = { installation_id: string; database_key: Uint8Array }

/**
 * Opens the embedded server or the given one, runs the migrations and checks the roles. Adds the steps to `closing` that
 * close what it opens, each as soon as there is something to close.
 */
export async function openDatabase(
  settings: Settings,
  logins: Logins,
  { clock, log, closing }: { clock: Clock; log: Log; closing: Pick<Steps, 'add'> },
): Promise<Database> {
  const { database_url: given } = settings
  const url = given ?? (await openEmbedded(settings, { clock, log, closing }))
  const pools: Sql[] = []
  closing.add('database connections', CONNECTIONS_STOP_MS, (ms) =>
    Promise.all(pools.map((pool) => pool.end({ timeout: ms / 1000 }))),
  )
  const open = (options: Connect): Sql => {
    pools.push(connect(options))
    return pools.at(-1)!
  }

  const owner = open({ url, max: OWNER_CONNECTIONS, name: NAME })
  const version = await serverVersion(owner, given)
  await checkPrivileges(owner, settings)
  const count = await migrate(owner)
  if (count > 0) log.info({ migrations: count }, 'migrated the database')
  const urls = await urlsOf(owner, url, settings, logins)
  const tenants = { url: urls.cn_app, max: TENANT_CONNECTIONS }
  const sql = open({ url: urls.cn_engine, max: ENGINE_CONNECTIONS, name: NAME, tenants })
  await checkRole(sql, 'cn_engine', 'DATABASE_ENGINE_URL')
  await checkRole(sql.as('none'), 'cn_app', 'DATABASE_APP_URL')
  const description = given ? `PostgreSQL ${version}, ${locationOf(given)}` : `PostgreSQL ${version}, embedded`
  return { sql, owner, description }
}

/** Starts the embedded server and creates its database; returns the connection string. */
async function openEmbedded(
  { data_dir, run_dir }: Settings,
  { clock, log, closing }: { clock: Clock; log: Log; closing: Pick<Steps, 'add'> },
): Promise<string> {
  const server = createEmbeddedPostgres({ data_dir, run_dir, clock, log })
  closing.add('PostgreSQL', POSTGRES_STOP_MS, (ms) => server.stop(ms))
  await server.start()
  await createIfMissing(server)
  return server.url(NAME)
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
