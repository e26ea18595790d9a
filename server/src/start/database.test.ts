/** Opening the database as a superuser, as a role with CREATEROLE and as three roles, and what is rejected. */
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Config } from '../config.ts'
import { connect, type Sql } from '../db/database.ts'
import { createEmbeddedPostgres, type EmbeddedPostgres } from '../db/embedded.ts'
import { withLogin } from '../db/roles.ts'
import { newKey } from '../keys/format.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { systemRandom } from '../lib/random.ts'
import { openFirstProject } from './first-project.ts'
import { createDataDir, openForTest, rejectionOf, secretsOf } from './testing.ts'

const log = silentLog
const clock = systemClock
/** A server like an operator's: the superuser connects through the socket, all other roles with a password. */
let server: EmbeddedPostgres
let admin: Sql
const dir = mkdtempSync(join(tmpdir(), 'cloudnexus-roles-'))
before(async () => {
  const hba_file = join(dir, 'pg_hba.conf')
  writeFileSync(hba_file, 'local all cloudnexus trust\nlocal all all scram-sha-256\n')
  chmodSync(hba_file, 0o644)
  const settings = { fsync: 'off', hba_file, log_statement: 'all' }
  server = createEmbeddedPostgres({ data_dir: dir, run_dir: dir, log, clock, settings })
  await server.start()
  admin = connect({ url: server.url('postgres'), max: 1, name: 'admin' })
})
after(async () => {
  await admin?.end()
  await server?.stop(5_000)
  rmSync(dir, { recursive: true, force: true })
})

let made = 0
/** Creates a database and its owner. */
async function ownedDatabase(attributes: string): Promise<{ name: string; owner: string; url: string }> {
  const name = `db_${made++}`
  const owner = `owner_${name}`
  await admin.unsafe(`create role ${owner} login password 'p@ss' ${attributes}`)
  await admin.unsafe(`create database ${name} owner ${owner}`)
  return { name, owner, url: withLogin(server.url(name), owner, 'p@ss') }
}
const data_dir = createDataDir()
const open = (urls: Partial<Config>, id = 'aaaa', key = 1) => openForTest(urls, { data_dir, id, key })
/** The one-line message with which opening the database fails. */
async function rejection(urls: Partial<Config>, id = 'aaaa'): Promise<string> {
  const message = await rejectionOf(urls, { data_dir, id })
  assert.doesNotMatch(message, /p@ss|p%40ss/)
  return message
}
/** Asserts that the first start's writes, permitted reads and rejected ones behave as expected. */
async function assertWorks(database: Awaited<ReturnType<typeof open>>): Promise<void> {
  const { owner, sql } = database
  await openFirstProject(owner, systemRandom, {
    region: 'us-east-1',
    public_addresses: '127.71.50.0/24',
    pepper: new Uint8Array(32),
    keys: { live: newKey('live', systemRandom), test: newKey('test', systemRandom) },
    ssh_public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f cloudnexus',
  })
  await owner.end()
  const environments = await sql<{ id: string }[]>`select id from environments where mode <> 'system' order by id`
  assert.equal(environments.length, 2)
  for (const { id } of environments) {
    const subnets = await sql.as(id)<{ environment_id: string }[]>`select environment_id from subnets`
    assert.deepEqual([...subnets], [{ environment_id: id }])
    // Functions that span tenants run as the owner, which is not a superuser here.
    assert.ok((await sql.as(id)<{ n: number }[]>`select free_subnet_segment() as n`)[0]!.n > 0)
    assert.equal((await sql.as(id)`select * from used_capacity('us-east-1', null, 0)`).count, 1)
  }
  await assert.rejects(Promise.resolve(sql`select * from subnets`), /permission denied/)
}

describe('opening the database', { timeout: 120_000 }, () => {
  test('rejects a role that cannot create roles, in one line with the statements to run', async () => {
    const { url, owner } = await ownedDatabase('')
    const message = await rejection({ database_url: url })
    assert.match(message, new RegExp(`alter role "${owner}" createrole;.*DATABASE_APP_URL and DATABASE_ENGINE_URL`))
    const check = connect({ url, max: 1, name: 'check' })
    assert.equal((await check`select from pg_tables where schemaname = 'public'`).count, 0, 'nothing was written')
    await check.end()
  })

  test('creates the roles with CREATEROLE, and keeps their passwords out of the log', async () => {
    const { url } = await ownedDatabase('createrole')
    const database = await open({ database_url: url })
    await assertWorks(database)
    const [role] = await database.sql`select current_user as engine`
    assert.equal(role!.engine, 'cn_engine_aaaa')
    await database.stop()

    const written = readFileSync(join(dir, 'postgres.log'), 'utf8')
    assert.match(written, /create role "cn_app_aaaa" login password 'SCRAM-SHA-256/)
    for (const name of ['cn_app_aaaa', 'cn_engine_aaaa']) {
      const password = createHmac('sha256', secretsOf({}).database_key).update(name).digest('base64url')
      assert.ok(!written.includes(password))
    }

    const again = await open({ database_url: url })
    await again.stop()
    const other = await open({ database_url: url }, 'aaaa', 2)
    assert.equal((await other.sql.as('env_x')`select 1`).count, 1, 'a lost secret is replaced')
    await other.stop()

    // The first owner created the groups; the owner of another database needs a grant.
    const second = await ownedDatabase('createrole')
    const message = await rejection({ database_url: second.url }, 'bbbb')
    assert.match(message, new RegExp(`grant cn_app, cn_engine to "${second.owner}" with admin option;`))
    await admin.unsafe(`grant cn_app, cn_engine to ${second.owner} with admin option`)
    const secondDatabase = await open({ database_url: second.url }, 'bbbb')
    await assertWorks(secondDatabase)
    await secondDatabase.stop()
  })

  test('works with a superuser', async () => {
    await admin.unsafe('create database super')
    const database = await open({ database_url: server.url('super') }, 'cccc')
    await assertWorks(database)
    await database.stop()
  })

  test('works with three roles that the operator created, and rejects unsuitable ones', async () => {
    const { url, name } = await ownedDatabase('')
    await admin.unsafe(`create role custom_app login password 'p@ss' in role cn_app`)
    await admin.unsafe(`create role custom_engine login password 'p@ss' in role cn_engine`)
    const as = (role: string) => withLogin(server.url(name), role, 'p@ss')
    const database_app_url = as('custom_app')
    const database_engine_url = as('custom_engine')
    const database = await open({ database_url: url, database_app_url, database_engine_url })
    await assertWorks(database)
    assert.equal((await database.sql`select current_user as u`)[0]!.u, 'custom_engine')
    await database.stop()

    const swapped = await rejection({
      database_url: url,
      database_app_url: database_engine_url,
      database_engine_url: database_app_url,
    })
    assert.match(swapped, /DATABASE_ENGINE_URL is not in cn_engine/)
    const owning = await rejection({ database_url: url, database_app_url: url, database_engine_url })
    assert.match(owning, /DATABASE_APP_URL owns tables/)
    await admin.unsafe(`create role custom_bypass login bypassrls password 'p@ss' in role cn_app`)
    const bypassing = await rejection({ database_url: url, database_app_url: as('custom_bypass'), database_engine_url })
    assert.match(bypassing, /DATABASE_APP_URL bypasses row-level security/)
    await admin.unsafe(`create role custom_both login password 'p@ss' in role cn_app, cn_engine`)
    const both = await rejection({ database_url: url, database_app_url: as('custom_both'), database_engine_url })
    assert.match(both, /is also in cn_engine/)
    const wrong = await rejection({
      database_url: url,
      database_engine_url,
      database_app_url: withLogin(server.url(name), 'custom_app', 'wrong'),
    })
    assert.match(wrong, /with DATABASE_APP_URL/)
  })

  test('replaces user and password before the host and in the query', () => {
    const cases = [
      ['postgres://cloudnexus@/db?host=%2Frun', 'postgres://a:p%2F@/db?host=%2Frun'],
      ['postgresql://u:p@db.example:5432/db?sslmode=require', 'postgresql://a:p%2F@db.example:5432/db?sslmode=require'],
      ['postgres://db.example/db?user=u&password=p', 'postgres://a:p%2F@db.example/db'],
      ['postgres:///db?host=/run', 'postgres://a:p%2F@/db?host=%2Frun'],
    ]
    for (const [given, expected] of cases) assert.equal(withLogin(given!, 'a', 'p/'), expected)
  })
})
