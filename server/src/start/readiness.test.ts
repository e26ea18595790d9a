import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import type { Engine } from '../engine/loop.ts'
import { createManualClock } from '../testing/manual-clock.ts'
import { createReadiness } from './readiness.ts'

const GIB = 2 ** 30
let sql: Sql
let owner: Sql
before(async () => {
  ;({ sql, owner } = await createTestDatabase())
})

function create({ free = GIB, using = sql }: { free?: number; using?: Sql } = {}) {
  const clock = createManualClock()
  const engine = { problem: () => null } as unknown as Engine
  const readiness = createReadiness({ sql: using, engine, clock, freeBytes: () => free })
  readiness.adopted()
  const problems = async () => (await readiness.check()).filter(({ problem }) => problem !== null)
  return { clock, problems, readiness }
}
test('is ready when the database accepts a write and space is free', async () => {
  const { problems } = create()
  assert.deepEqual(await problems(), [])
  assert.equal((await owner`select from readiness where checked_at > now() - interval '1 minute'`).count, 1)
})

test('is not ready while machines are adopted, without a delay afterwards', async () => {
  const clock = createManualClock()
  const engine = { problem: () => null } as unknown as Engine
  const readiness = createReadiness({ sql, engine, clock, freeBytes: () => GIB })
  assert.match((await readiness.check()).at(-1)!.problem!, /adopted/)
  readiness.adopted()
  assert.equal((await readiness.check()).at(-1)!.problem, null)
})

test('is not ready when the database refuses writes', async () => {
  await owner`revoke update on readiness from cn_engine`
  const { problems } = create()
  assert.deepEqual(await problems(), [{ name: 'database', problem: 'does not accept a write' }])
  await owner`grant update on readiness to cn_engine`
})

test('is not ready when the disk is nearly full', async () => {
  const { problems } = create({ free: 100 * 2 ** 20 })
  assert.match((await problems())[0]!.problem!, /less than 256 MiB are free/)
})

test('probes at most once a second, whatever the number of requests', async () => {
  let statements = 0
  const counting = new Proxy(sql, {
    apply(target, self, args) {
      statements++
      return Reflect.apply(target as never, self, args)
    },
  })
  const { clock, readiness } = create({ using: counting })
  for (let second = 1; second <= 3; second++) {
    await Promise.all(Array.from({ length: 100 }, () => readiness.check()))
    await readiness.check()
    assert.equal(statements, second)
    clock.advance(1_000)
  }
})

test('says so when the database does not respond in time, and waits for no second probe', async () => {
  let statements = 0
  const hanging = new Proxy(sql, {
    apply() {
      statements++
      return new Promise(() => {})
    },
  })
  const { clock, problems } = create({ using: hanging })
  const first = problems()
  clock.advance(1_500)
  const second = problems()
  clock.advance(600)
  for (const found of [await first, await second]) {
    assert.deepEqual(found, [{ name: 'database', problem: 'does not respond in time' }])
  }
  assert.equal(statements, 1)
})
