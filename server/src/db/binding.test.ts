/** `as`: the binding to a tenant ends with its statement or transaction, also after a failure. */
import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { systemRandom } from '../lib/random.ts'
import { until } from '../testing/until.ts'
import { connect, type Sql, type Transaction } from './database.ts'
import { createTestDatabase } from './testing.ts'

let owner: Sql
/** All tenants share a single connection. */
let sql: Sql
let a: Sql
let b: Sql
before(async () => {
  const made = await createTestDatabase({ max: 1 })
  ;({ owner, sql } = made)
  a = sql.as('env_a')
  b = sql.as('env_b')
  await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
  await owner`insert into environments (id, project_id, mode) values ('env_a', 'proj_1', 'live'), ('env_b', 'proj_1', 'test')`
  await owner`create table things (id text primary key, environment_id text not null, n integer check (n < 10),
    unique (n) deferrable initially deferred)`
  await owner`select isolate_tenant_table('things')`
  await owner`insert into things values ('one', 'env_a', 1), ('two', 'env_b', 2)`
})

type Queryable = Sql | Transaction
const ids = async (query: Queryable) =>
  (await query<{ id: string }[]>`select id from things order by id`).map(({ id }) => id)
const state = async (query: Queryable) => {
  const [row] = await query<{ pid: number; bound: string }[]>`
    select pg_backend_pid() as pid, current_environment_id() as bound`
  return row!
}
/** Asserts, from another connection, that the connection is idle outside a transaction. */
async function assertIdle(pid: number): Promise<void> {
  await until('the connection is idle', async () => {
    const [row] = await owner`select state, xact_start from pg_stat_activity where pid = ${pid}`
    if (row!.state !== 'idle') return false
    assert.equal(row!.xact_start, null)
    return true
  })
}
const untilAsleep = (pid: number) =>
  until('the statement sleeps', async () => {
    return (await owner`select from pg_stat_activity where pid = ${pid} and wait_event = 'PgSleep'`).count > 0
  })
async function kill(pid: number): Promise<void> {
  await owner`select pg_terminate_backend(${pid})`
  await until('the connection has ended', async () => {
    return (await owner`select from pg_stat_activity where pid = ${pid}`).count === 0
  })
}
const assertBoth = async () => {
  assert.deepEqual(await ids(a), ['one'])
  assert.deepEqual(await ids(b), ['two'])
  assert.deepEqual(await a.begin(ids), ['one'])
  assert.deepEqual(await b.begin(ids), ['two'])
}

describe('as', { timeout: 240_000 }, () => {
  test('statements and transactions use their own environment on a shared connection', async () => {
    await assertBoth()
    const first = await state(a)
    assert.deepEqual([first.bound, await state(b)], ['env_a', { pid: first.pid, bound: 'env_b' }])
    assert.equal(await b.begin(async (tx) => (await state(tx)).bound), 'env_b')
    await assertIdle(first.pid)
  })

  test('returns the same rows, counts and types as an unbound statement', async () => {
    const rows = await a`select id, n, ${7}::bigint as big, ${null}::text as nothing from things`
    assert.deepEqual([{ ...rows[0] }, rows.count], [{ id: 'one', n: 1, big: 7, nothing: null }, 1])
    assert.deepEqual([(await a`select 1 where false`).length, (await a`select from things`).length], [0, 1])
    assert.equal((await a`update things set n = n where id = 'one'`).count, 1)
    assert.equal((await a.unsafe('select 1')).count, 1)
  })

  test('a failed statement leaves neither its setting nor a transaction on the connection', async () => {
    const { pid } = await state(a)
    const mistakes: (() => Promise<unknown>)[] = [
      async () => await a`select 1 / ${0}::integer`,
      async () => await a`select no_such_column from things where id = ${'x'}`,
      async () => await a`selct ${1}`,
      async () => await a`update things set n = ${99}`,
      // Detected at the commit, which is the Sync.
      async () => await a`insert into things values ('three', 'env_a', ${1})`,
      async () => await a`insert into things values ('three', 'env_b', ${3})`,
      async () => await a`select ${'\u0000'}::text`,
    ]
    for (const mistake of mistakes) {
      await assert.rejects(mistake())
      await assertIdle(pid)
      assert.equal((await state(b)).pid, pid, 'the connection is kept')
      await assertBoth()
      await assert.rejects(mistake(), 'a repetition fails in the same way')
    }
    await assertBoth()
  })

  test('a statement whose preparation failed can be prepared later', async () => {
    const later = () => a<object[]>`select ${'x'} as x from later`
    await assert.rejects(Promise.resolve(later()), /does not exist/)
    await owner`create table later (environment_id text)`
    await owner`select isolate_tenant_table('later')`
    assert.equal((await later()).count, 0)
    await owner`drop table later`
    await assert.rejects(Promise.resolve(later()), /does not exist/)
  })

  test('an error in a transaction rolls it back, also when the body catches the error', async () => {
    const { pid } = await state(a)
    const body = async (tx: Transaction) => {
      await tx`insert into things values ('three', 'env_a', 3)`
      await tx`select 1 / 0`
    }
    await assert.rejects(a.begin(body), /division by zero/)
    await assert.rejects(
      a.begin((tx) => body(tx).catch(() => {})),
      /nothing was written/,
    )
    await assert.rejects(
      a.begin(async (tx) => {
        await tx`insert into things values ('three', 'env_a', 1)`
      }),
      /unique/,
    )
    await assertIdle(pid)
    await assertBoth()
  })

  test('a cancelled statement releases the connection, also in a transaction', async () => {
    const { pid } = await state(a)
    for (const run of [() => a`select pg_sleep(30)`, () => a.begin((tx) => tx`select pg_sleep(30)`)]) {
      const slept = assert.rejects(Promise.resolve(run()), /canceling/)
      await untilAsleep(pid)
      await owner`select pg_cancel_backend(${pid})`
      await slept
      await assertIdle(pid)
      await assertBoth()
    }
  })

  test('a statement on a lost connection rejects, and the next tenant gets a new connection', async () => {
    const { pid } = await state(a)
    const slept = assert.rejects(Promise.resolve(a`select pg_sleep(30)`), DatabaseUnavailableError)
    await untilAsleep(pid)
    await kill(pid)
    await slept
    await assertBoth()
    for (const at of ['before a statement', 'before the commit']) {
      const cut = a.begin(async (tx) => {
        await tx`insert into things values ('three', 'env_a', 3)`
        await kill((await state(tx)).pid)
        if (at === 'before a statement') await tx`select 1`
      })
      await assert.rejects(cut, DatabaseUnavailableError)
      await assertBoth()
    }
  })

  test('a statement that was not awaited never runs for the next tenant', async () => {
    let late: Transaction | undefined
    await a.begin(async (tx) => {
      late = tx
      await tx`select 1`
    })
    await assert.rejects(Promise.resolve(late!`select * from things`), /has ended/)
    let left: Promise<string[]> | undefined
    await a.begin((tx) => void (left = ids(tx)))
    assert.deepEqual(await left, ['one'])
    await assertBoth()
  })

  test('a binding cannot be changed to another tenant', async () => {
    for (const id of ['', "env_a'; reset role; --", 'ENV', 'env-a', 'env_a\0'])
      assert.throws(() => sql.as(id), TypeError)
    assert.throws(() => a.as('env_b'), /another/)
    assert.equal(a.as('env_a'), a)
    assert.throws(() => owner.as('env_a'), /cannot be bound/)
    await assert.rejects(a.reserve())
    await assert.rejects(a.unsafe('select 1; select 2'))
    await assertBoth()
  })

  test('a tenant connection without a binding reads and writes nothing', async () => {
    const { urls } = await createTestDatabase({ max: 1 })
    const bare = connect({ url: urls.cn_app, max: 1, name: 'bare' })
    assert.equal((await bare`select * from environments`).count, 0)
    await assert.rejects(
      bare.begin((tx) => tx`insert into events values ('env_a', 1, 'e', 't', 'r', 'r', null, now(), '{}')`),
    )
    await bare.end()
  })

  test('many concurrent tenants on few connections read only their own rows, also between errors', async () => {
    const { urls, owner: wide } = await createTestDatabase({ max: 4 })
    const shared = connect({ url: urls.cn_engine, max: 1, name: 'shared', tenants: { url: urls.cn_app, max: 4 } })
    await wide`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
    await wide`create table notes (environment_id text not null, text text not null)`
    await wide`select isolate_tenant_table('notes')`
    await wide`insert into notes select 'env_' || (n % 20), 'env_' || (n % 20) from generate_series(1, 400) n`
    const query = async (id: string): Promise<void> => {
      const tenant = shared.as(id)
      const choice = systemRandom.integer(10)
      if (choice === 0) return assert.rejects(Promise.resolve(tenant`select 1 / ${0}::integer from notes`))
      if (choice === 1) return assert.rejects(Promise.resolve(tenant`insert into notes values ('env_none', ${id})`))
      const read = (query: Queryable) => query<{ text: string }[]>`select text from notes`
      if (choice === 2)
        return assert.rejects(
          tenant.begin(async (tx) => {
            await tx`insert into notes values (${id}, 'never')`
            throw new RangeError('no')
          }),
          RangeError,
        )
      const rows = choice < 6 ? await tenant.begin(read) : await read(tenant)
      assert.deepEqual([...new Set(rows.map(({ text }) => text))], [id])
      assert.equal(rows.length, 20)
    }
    await Promise.all(Array.from({ length: 2_000 }, (_, i) => query(`env_${i % 20}`)))
    await shared.end()
  })
})
