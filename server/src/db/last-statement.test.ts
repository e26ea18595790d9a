import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import type { Sql } from './database.ts'
import { createTestDatabase } from './testing.ts'

let owner: Sql
let sql: Sql
before(async () => {
  // One connection each, so that the next transaction uses the same connection.
  ;({ owner, sql } = await createTestDatabase({ max: 1 }))
  await owner`create table things (environment_id text, n integer unique deferrable initially deferred)`
  await owner`select isolate_tenant_table('things')`
})
const all = async () => (await owner<{ n: number }[]>`select n from things order by n`).map(({ n }) => n)
const add = (n: number, last: 'fails' | 'works', first: () => unknown = () => {}) =>
  sql.as('env_1').begin(async (tx) => {
    await tx`insert into things values ('env_1', ${n})`
    await first()
    tx.commitWith(
      tx`insert into things select 'env_1', ${last === 'works' ? n + 1 : 1} / ${last === 'works' ? 1 : 0}::int`,
    )
  })

test('executes and commits the last statement, also when it is already prepared', async () => {
  await add(1, 'works')
  await add(3, 'works')
  assert.deepEqual(await all(), [1, 2, 3, 4])
})

test('writes nothing and keeps the connection usable when the last statement fails', async () => {
  await assert.rejects(add(10, 'fails'), { code: '22012' })
  assert.deepEqual(await all(), [1, 2, 3, 4])
  const [state] = await sql.as('env_1')`select txid_current_if_assigned() as open, current_environment_id() as bound`
  assert.deepEqual({ ...state }, { open: null, bound: 'env_1' })
  await add(5, 'works')
  assert.deepEqual(await all(), [1, 2, 3, 4, 5, 6])
})

test('rejects when the commit fails', async () => {
  await assert.rejects(add(6, 'works'), { code: '23505' })
  assert.deepEqual(await all(), [1, 2, 3, 4, 5, 6])
})

test('does not send the last statement when the body throws', async () => {
  const failing = () => Promise.reject(new Error('a test'))
  await assert.rejects(add(20, 'works', failing), /a test/)
  assert.deepEqual(await all(), [1, 2, 3, 4, 5, 6])
})

test('writes nothing when the body ignored the failure of a statement', async () => {
  const swallowed = sql.as('env_1').begin(async (tx) => {
    await tx`select 1 / 0`.catch(() => {})
    tx.commitWith(tx`insert into things values ('env_1', 30)`)
  })
  await assert.rejects(swallowed, { code: '25P02' })
  assert.deepEqual(await all(), [1, 2, 3, 4, 5, 6])
})
