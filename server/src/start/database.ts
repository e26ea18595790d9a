import type { Config } from '../config.ts'
import { type Connect, connect, type Sql } from '../db/database.ts'
import { createEmbeddedPostgres, type EmbeddedPostgres } from '../db/embedded.ts'
import { ignoredVariables } from '../db/environment.ts'
import { migrate } from '../db/migrate.ts'
import { type Group, groupsExist, missingPrivileges, openRoles, roleMisconfiguration } from '../db/roles.ts'
import type { Clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Secrets } from '../lib/secrets.ts'
import { type Ownership, openOwnership, ownerOf } from './ownership.ts'
import { isTransactionPooler } from './pooler.ts'
import type { Steps } from './shutdown.ts'
import { type Facts, poolSizes, readFacts, unsuitable } from './suitable.ts'

const NAME = 'cloudnexus'
const OWNER_CONNECTIONS = 2
/** For busy connections at shutdown. */
const CONNECTIONS_STOP_MS = 400
const OWNERSHIP_STOP_MS = 100
/** For the checkpoint at shutdown; afterwards the server stops without one and recovers at its next start. */
const POSTGRES_STOP_MS = 2_000

export type Database = {
  /** The engine's role, and with `as` the tenants' role. */
  sql: Sql
  /** The owner of the tables, for writes at start. The caller ends it after them. */
  owner: Sql
  /** Version and location for the banner, without a password. */
  description: string
  ownership: Ownership
}

type Settings = Pick<
  Config,
  'database_url' | 'database_app_url' | 'database_engine_url' | 'data_dir' | 'postgres' | 'run_dir'
>
/** The installation, and whether it may take over the database of the data directory that it is a copy of. */
type Identity = { installation: { id: string }; secrets: Secrets; take_over: boolean }
type Deps = { clock: Clock; log: Log; closing: Pick<Steps, 'add'> }

/**
 * Opens the embedded server or the given one, checks that it is suitable and belongs to this data directory, runs the
 * migrations and checks the roles. Adds the steps to `closing` that close what it opens, each as soon as there is something
 * to close.
 */
export async function openDatabase(settings: Settings, identity: Identity, deps: Deps): Promise<Database> {
  const { clock, log, closing } = deps
  const { database_url: given } = settings
  if (given && ignoredVariables.length > 0) {
    log.warn({ variables: ignoredVariables }, 'these variables have no effect; DATABASE_URL must be complete')
  }
  const url = given ?? (await openEmbedded(settings, deps))
  const pools: Sql[] = []
  let ownership: Ownership | null = null
  closing.add('ownership of the database', OWNERSHIP_STOP_MS, async () => ownership?.close())
  closing.add('database connections', CONNECTIONS_STOP_MS, (ms) =>
    Promise.all(pools.map((pool) => pool.end({ timeout: ms / 1000 }))),
  )
  const open = (options: Connect): Sql => {
    pools.push(connect(options))
    return pools.at(-1)!
  }

  const owner = open({ url, max: OWNER_CONNECTIONS, name: NAME })
  const facts = await checkSuitable(owner, url, given)
  ownership = await openOwnership({
    ...deps,
    url,
    take_over: identity.take_over,
    own: ownerOf(identity.installation, settings.data_dir, identity.secrets),
  })
  await checkPrivileges(owner, settings)
  const count = await migrate(owner)
  if (count > 0) log.info({ migrations: count }, 'migrated the database')
  await ownership.record(clock.now())
  const urls = await urlsOf(owner, url, settings, identity)
  const sizes = poolSizes(facts.connection_limit)!
  const tenants = { url: urls.cn_app, max: sizes.tenants }
  const sql = open({ url: urls.cn_engine, max: sizes.engine, name: NAME, tenants })
  await checkRole(sql, 'cn_engine', 'DATABASE_ENGINE_URL')
  await checkRole(sql.as('none'), 'cn_app', 'DATABASE_APP_URL')
  const description = `PostgreSQL ${facts.version}, ${given ? locationOf(given) : settings.postgres}`
  return { sql, owner, description, ownership }
}

/** Starts the embedded server and creates its database; returns the connection string. */
async function openEmbedded({ data_dir, run_dir, postgres }: Settings, { clock, log, closing }: Deps): Promise<string> {
  const server = createEmbeddedPostgres({ data_dir, run_dir, postgres, clock, log })
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

async function urlsOf(owner: Sql, url: string, settings: Settings, identity: Identity): Promise<Record<Group, string>> {
  const { database_app_url: cn_app, database_engine_url: cn_engine } = settings
  if (cn_app !== null && cn_engine !== null) return { cn_app, cn_engine }
  return openRoles(owner, url, identity.installation.id, identity.secrets.database_key)
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

/** Reads what the database is. Rejects one that cannot be used with one line that says what to change. */
async function checkSuitable(owner: Sql, url: string, given: string | null): Promise<Facts> {
  const facts = await readFacts(owner).catch((error: Error & { code?: string }) => {
    if (!given) throw error
    const reason = error.code === '3D000' ? 'the database does not exist; create it' : (error.code ?? error.message)
    throw new StartupError(`Cannot open the database at ${locationOf(given)}: ${reason}. Check DATABASE_URL.`)
  })
  const [tables] = await owner<{ exist: boolean }[]>`select to_regclass('public.migrations') is not null as exist`
  const reason = unsuitable(facts, tables!.exist)
  if (reason !== null) throw new StartupError(`The database of DATABASE_URL ${reason}`)
  if (given && (await isTransactionPooler(url))) {
    throw new StartupError(
      'DATABASE_URL leads to a connection pooler in transaction mode, which loses prepared statements, notifications and locks. Use the URL of the server itself, or set the pooler to session mode.',
    )
  }
  return facts
}

/** Host and database of a connection string, without user and password. */
function locationOf(url: string): string {
  const parsed = new URL(url.replace('@/', '@localhost/'))
  return `${parsed.searchParams.get('host') ?? parsed.host}${parsed.pathname}`
}
