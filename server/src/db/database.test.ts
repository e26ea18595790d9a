import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { until } from '../testing/until.ts'
import { connect, type Sql } from './database.ts'
import { createTestDatabase } from './testing.ts'

let sql: Sql
let killer: Sql
before(async () => {
  const made = await createTestDatabase({ max: 1 })
  sql = made.owner
  killer = connect({ url: made.url, max: 1, name: 'killer' })
  await sql`create table t (id integer primary key)`
})
after(() => killer?.end())

const kill = async (pid: number) => {
  await killer`select pg_terminate_backend(${pid})`
  await until('the connection has ended', async () => {
    return (await killer`select from pg_stat_activity where pid = ${pid}`).count === 0
  })
}
const pidOf = async (query: Sql | Parameters<Parameters<Sql['begin']>[0]>[0]) =>
  (await query<{ pid: number }[]>`select pg_backend_pid() as pid`)[0]!.pid

describe('database', { timeout: 120_000 }, () => {
  test('parses bigint as a number, timestamps as dates, and json; returns inet as text', async () => {
    const [row] =
      await sql`select 7::bigint as n, '2030-01-01Z'::timestamptz as t, '{"a":[1]}'::jsonb as j, '10.0.0.1'::inet as i`
    assert.deepEqual({ ...row }, { n: 7, t: new Date('2030-01-01Z'), j: { a: [1] }, i: '10.0.0.1' })
  })

  test('a transaction whose connection is lost rejects, writes nothing, and does not affect the next one', async () => {
    for (const lostIn of ['a statement', 'between statements']) {
      const failed = sql.begin(async (tx) => {
        await tx`insert into t values (1)`
        const pid = await pidOf(tx)
        if (lostIn === 'a statement') await Promise.all([tx`select pg_sleep(10)`, kill(pid)])
        else await kill(pid)
        await tx`insert into t values (2)`
      })
      await assert.rejects(failed, DatabaseUnavailableError)
      // The pool has a single connection: it must be a new one, outside any transaction.
      await sql.begin(async (tx) => void (await tx`insert into t values (3)`))
      assert.deepEqual(
        (await sql`select id from t`).map((row) => row.id),
        [3],
      )
      await sql`delete from t`
    }
  })

  test('a body that throws rolls the transaction back and rejects with its error', async () => {
    const body = async (tx: Parameters<Parameters<Sql['begin']>[0]>[0]) => {
      await tx`insert into t values (9)`
      throw new RangeError('no')
    }
    await assert.rejects(sql.begin(body), RangeError)
    assert.equal((await sql`select 1 from t`).count, 0)
  })

  test('a listener reconnects after a lost connection and reports the gap', async () => {
    const received: string[] = []
    let gaps = 0
    const listener = await sql.listen(
      'c',
      (payload) => received.push(payload),
      () => gaps++,
    )
    await sql.notify('c', 'one')
    await until('the first payload', () => received.length === 1)
    const [row] = await killer<{ pid: number }[]>`
      select pid from pg_stat_activity where query ilike 'listen%' and datname = current_database()`
    await kill(row!.pid)
    await until('a gap', () => gaps === 1)
    await sql.notify('c', 'two')
    await until('the second payload', () => received.length === 2)
    assert.deepEqual(received, ['one', 'two'])
    await listener.unlisten()
  })
})
