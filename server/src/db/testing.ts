import { createHash } from 'node:crypto'
import { after } from 'node:test'
import { systemRandom } from '../lib/random.ts'
import { connect, type Sql } from './database.ts'
import { migrate, migrationFiles } from './migrate.ts'
import { type Group, openRoles } from './roles.ts'
import { startTestServer } from './test-server.ts'
import { assertNoSecrets } from './testing-canary.ts'

export type TestDatabase = {
  /** As in the control plane: the engine's role, and with `as` the tenants' role. */
  sql: Sql
  /** The owner's connections, without row-level security, to prepare and inspect data. */
  owner: Sql
  /** Connection string of the owner. */
  url: string
  /** Connection strings of the two roles. */
  urls: Record<Group, string>
}

/**
 * Creates a database for one test file, copied from a migrated template. It uses the server that the test command
 * started (TEST_DATABASE_URL); a file that runs alone starts its own.
 */
export async function createTestDatabase(options: { max?: number; search_path?: string } = {}): Promise<TestDatabase> {
  const server = process.env.TEST_DATABASE_URL ?? (await ownServer())
  const template = await ensureTemplate(server)
  const name = `t_${Buffer.from(systemRandom.bytes(8)).toString('hex')}`
  const admin = connect({ url: server, max: 1, name: 'test-admin' })
  await admin.unsafe(`create database ${name} template ${template}`)
  const url = withDatabase(server, name)
  const max = options.max ?? 10
  const { search_path } = options
  const path = search_path === undefined ? {} : { search_path }
  const owner = connect({ url, max, name: 'test-owner', ...path })
  // Through the database that all test files share: roles belong to the cluster, but locks to a database.
  const urls = await openRoles(admin, url, 'test', new Uint8Array(32))
  const sql = connect({ url: urls.cn_engine, max, name: 'test', tenants: { url: urls.cn_app, max }, ...path })
  owners.set(sql, owner)
  cleanups.push(async () => {
    await assertNoSecrets(owner)
    await Promise.all([sql.end({ timeout: 2 }), owner.end({ timeout: 2 })])
    await admin.unsafe(`drop database if exists ${name} with (force)`)
    await admin.end()
  })
  return { sql, owner, url, urls }
}

const owners = new WeakMap<Sql, Sql>()
/** The owner's connections to the same database. */
export const ownerOf = (sql: Sql): Sql => owners.get(sql)!

let stopOwn: (() => Promise<void>) | undefined
const cleanups: (() => Promise<void>)[] = []
// Registered when this file is loaded, so that it runs after all tests of the test file and not after the first.
after(async () => {
  for (const cleanup of cleanups) await cleanup()
  await stopOwn?.()
})

async function ownServer(): Promise<string> {
  const server = await startTestServer()
  stopOwn = server.stop
  process.env.TEST_DATABASE_URL = server.url
  return server.url
}

/** Creates the template once for each content of the migrations, under an advisory lock. */
async function ensureTemplate(server: string): Promise<string> {
  const digest = createHash('sha256').update(JSON.stringify(migrationFiles())).digest('hex').slice(0, 12)
  const name = `template_${digest}`
  const admin = connect({ url: server, max: 1, name: 'test-template' })
  try {
    await admin`select pg_advisory_lock(41)`
    const [found] = await admin`select 1 from pg_database where datname = ${name}`
    if (!found) {
      await admin.unsafe(`create database ${name}_new`)
      const fresh = connect({ url: withDatabase(server, `${name}_new`), max: 1, name: 'test-template' })
      await migrate(fresh)
      await fresh.end()
      await admin.unsafe(`alter database ${name}_new rename to ${name}`)
    }
    return name
  } finally {
    await admin.end()
  }
}

function withDatabase(url: string, database: string): string {
  return url.replace(/\/[^/?]*(\?|$)/, `/${database}$1`)
}
