/** Defaults of the database and of the role do not change what a session does. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { connect, type Sql } from './database.ts'
import { SESSION_SETTINGS } from './session.ts'
import { createTestDatabase } from './testing.ts'

/** Another value of each setting, as an operator could set it for the database. */
const OTHER: Record<string, string> = {
  DateStyle: 'German',
  IntervalStyle: 'iso_8601',
  TimeZone: 'Asia/Kathmandu',
  array_nulls: 'off',
  bytea_output: 'escape',
  check_function_bodies: 'off',
  default_transaction_deferrable: 'on',
  default_transaction_isolation: 'serializable',
  extra_float_digits: '-15',
  idle_in_transaction_session_timeout: '10ms',
  idle_session_timeout: '10min',
  lock_timeout: '1ms',
  row_security: 'off',
  search_path: 'pg_temp',
  standard_conforming_strings: 'off',
  statement_timeout: '5ms',
  transaction_timeout: '10min',
  transform_null_equals: 'on',
}

let owner: Sql
let url: string
before(async () => {
  ;({ owner, url } = await createTestDatabase())
})

const settingsOf = async (sql: Sql) =>
  Object.fromEntries(
    (
      await sql<{ name: string; setting: string }[]>`
        select name, setting from pg_settings where name = any(${Object.keys(SESSION_SETTINGS)})`
    ).map(({ name, setting }) => [name, setting]),
  )

test('settings of the database do not apply, on any kind of connection', async () => {
  const [row] = await owner<{ name: string }[]>`select current_database()::text as name`
  const { name } = row!
  for (const [setting, value] of Object.entries(OTHER)) {
    await owner.unsafe(`alter database ${name} set ${setting} = '${value}'`)
  }
  const sql = connect({ url, max: 1, name: 'session' })
  after(() => sql.end())
  const present = await settingsOf(sql)
  assert.deepEqual(Object.keys(OTHER).sort(), Object.keys(SESSION_SETTINGS).sort(), 'each setting has another value')
  assert.deepEqual(present, Object.fromEntries(Object.entries(SESSION_SETTINGS).filter(([each]) => each in present)))

  const received = new Promise<string>((resolve) => {
    void sql.listen('session', resolve)
  })
  const listening = async () =>
    (await owner`select from pg_stat_activity where datname = ${name} and query ilike 'listen %'`).count === 1
  while (!(await listening()));
  await sql.notify('session', 'still connected')
  assert.equal(await received, 'still connected')
})

test('another role as the default of a role does not apply', async () => {
  const [row] = await owner<{ role: string; name: string }[]>`
    select current_user::text as role, current_database()::text as name`
  const { role, name } = row!
  await owner.unsafe(`alter role ${role} in database ${name} set role = cn_app`)
  const sql = connect({ url, max: 1, name: 'session' })
  after(() => sql.end())
  assert.equal((await sql<{ role: string }[]>`select current_user::text as role`)[0]!.role, role)
  await owner.unsafe(`alter role ${role} in database ${name} reset role`)
})

test('PG* variables of the shell have no effect', () => {
  const script = `
    const { connect } = await import(${JSON.stringify(join(import.meta.dirname, 'database.ts'))})
    const sql = connect({ url: process.env.TEST_URL, max: 1, name: 'shell' })
    const [row] = await sql\`select current_setting('application_name') as name, current_setting('work_mem') as memory\`
    console.log(JSON.stringify(row))
    await sql.end()`
  const shell = {
    PGSSLMODE: 'verify-full',
    PGPORT: '1',
    PGHOST: 'db.example',
    PGUSER: 'other',
    PGDATABASE: 'none',
    PGOPTIONS: '-c work_mem=64kB',
    PGAPPNAME: 'mine',
    PGCLIENTENCODING: 'LATIN1',
  }
  const env = { ...process.env, ...shell, TEST_URL: url }
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    env,
    encoding: 'utf8',
  })
  assert.deepEqual(JSON.parse(stdout || stderr), { name: 'shell', memory: '4MB' })
})
