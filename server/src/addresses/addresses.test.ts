import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Transaction } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { allocateAddresses, releaseAddresses } from './store.ts'

const database = await createTestDatabase({ max: 40 })
const { owner } = database
await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
await owner`insert into environments (id, project_id, mode) values ('env_1', 'proj_1', 'live'), ('env_2', 'proj_1', 'test')`
const sql = database.sql.as('env_1')

let pools = 0
async function newPool(range: string): Promise<string> {
  const id = `pool-${pools++}`
  await owner`insert into address_pools (id, range) values (${id}, ${range})`
  return id
}
const allocate = (pool: string, instance: string) => sql.begin((tx) => allocateAddress(tx, pool, instance))
/** One address; null: the pool is exhausted. */
const allocateAddress = async (tx: Transaction, pool: string, instance: string) =>
  (await allocateAddresses(tx, pool, [instance]))?.get(instance) ?? null

test('every address but those of network, gateway and broadcast; then none', async () => {
  const pool = await newPool('10.1.2.16/28')
  const got = []
  for (let i = 0; i < 14; i++) got.push(await allocate(pool, `i${i}`))
  assert.equal(got.pop(), null)
  assert.deepEqual(got.sort(), Array.from({ length: 13 }, (_, i) => `10.1.2.${18 + i}`).sort())
})

test('any order of taking and giving back: never twice, and exhausted only when full', async () => {
  const step = fc.oneof({ weight: 3, arbitrary: fc.constant('take' as const) }, fc.nat(12))
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const pool = await newPool('192.168.7.0/28')
      const held = new Map<string, string>()
      for (const [i, what] of steps.entries()) {
        if (what === 'take') {
          const address = await allocate(pool, `${pool}-${i}`)
          assert.equal(address === null, held.size === 13)
          assert.ok(address === null || !held.has(address))
          if (address) held.set(address, `${pool}-${i}`)
        } else {
          const [address, instance] = [...held][what] ?? []
          if (instance) await releaseAddresses(sql, instance)
          held.delete(address ?? '')
        }
      }
    }),
    { numRuns: 40 },
  )
})

test('an address rests for a round before it is given out again', async () => {
  const pool = await newPool('192.168.8.0/24')
  const first = await allocate(pool, 'first')
  await releaseAddresses(sql, 'first')
  for (let i = 0; i < 252; i++) {
    assert.notEqual(await allocate(pool, `next-${i}`), first)
    await releaseAddresses(sql, `next-${i}`)
  }
})

test('transactions at the same time get different addresses; the last one is decided by a commit', async () => {
  const pool = await newPool('10.9.0.0/26')
  const got = await Promise.all(Array.from({ length: 61 }, (_, i) => allocate(pool, `p${i}`)))
  assert.equal(new Set(got).size, 61)
  assert.ok(!got.includes(null))
  assert.equal(await allocate(pool, 'one more'), null)
  await releaseAddresses(sql, 'p7')
  let fast: Promise<string | null> | undefined
  const slow = sql.begin(async (tx) => {
    const mine = await allocateAddress(tx, pool, 'slow')
    fast = allocate(pool, 'fast')
    return mine
  })
  assert.equal(await slow, got[7])
  assert.equal(await fast, null)
})

test('an address of a transaction that is rolled back is free again', async () => {
  const pool = await newPool('10.9.1.0/29')
  const failed = sql.begin(async (tx) => {
    for (let i = 0; i < 5; i++) assert.ok(await allocateAddress(tx, pool, `r${i}`))
    throw new Error('changed my mind')
  })
  await assert.rejects(failed, /changed my mind/)
  for (let i = 0; i < 5; i++) assert.ok(await allocate(pool, `s${i}`))
  assert.equal(await allocate(pool, 's5'), null)
})

test('a single hole among many is found', async () => {
  const pool = await newPool('10.64.0.0/18')
  await owner`insert into addresses select ${pool}, '10.64.0.0'::inet + at, 'many', 'env_2' from generate_series(2, 16382) at`
  await owner`delete from addresses where pool_id = ${pool} and address = '10.64.31.7'`
  assert.equal(await allocate(pool, 'found'), '10.64.31.7')
  assert.equal(await allocate(pool, 'none'), null)
})

test('concurrent allocations from a large range all succeed', async () => {
  const pool = await newPool('10.80.0.0/16')
  const got = await Promise.all(Array.from({ length: 400 }, (_, i) => allocate(pool, `w${i}`)))
  assert.equal(new Set(got).size, 400)
  assert.ok(!got.includes(null))
})

test('a set gets as many different addresses as it has instances, or none when the pool has fewer', async () => {
  const size = fc.integer({ min: 1, max: 14 })
  await fc.assert(
    fc.asyncProperty(fc.array(size, { minLength: 1, maxLength: 4 }), async (sizes) => {
      const pool = await newPool('192.168.9.0/28')
      const wholeSet = (ids: string[]) =>
        sql.begin(async (tx) => {
          const allocated = await allocateAddresses(tx, pool, ids)
          if (!allocated) throw new Error('exhausted')
          return allocated
        })
      const attempts = sizes.map((count, set) =>
        wholeSet(Array.from({ length: count }, (_, i) => `${pool}-${set}-${i}`)),
      )
      const outcomes = await Promise.allSettled(attempts)
      const held = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [...outcome.value] : []))
      assert.equal(new Set(held.map(([, address]) => address)).size, held.length)
      const rows = await owner`select from addresses where pool_id = ${pool}`
      assert.equal(rows.count, held.length)
      const refused = sizes.filter((_, i) => outcomes[i]!.status === 'rejected')
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') assert.match(String(outcome.reason), /exhausted/)
      }
      // Some set was refused only because the pool has fewer addresses than all sets need.
      if (refused.length > 0) assert.ok(sizes.reduce((sum, count) => sum + count) > 13)
    }),
    { numRuns: 30 },
  )
})
