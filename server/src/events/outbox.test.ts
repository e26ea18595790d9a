import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import type { Sql, Transaction } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { seededRandom } from '../lib/random.ts'
import { LEASE_LOST, type Outbox, withOutbox } from './outbox.ts'
import { testOutboxDeps } from './testing-outbox.ts'

const ENVIRONMENT = { environment_id: 'env_test', mode: 'test' as const }
const KINDS = ['deployment', 'instance', 'webhook']

let sql: Sql
let owner: Sql
before(async () => {
  ;({ sql, owner } = await createTestDatabase({ max: 20 }))
  await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
  await owner`insert into environments (id, project_id, mode) values ('env_test', 'proj_1', 'test'), ('env_live', 'proj_1', 'live')`
  await owner`insert into environment_heads (environment_id) values ('env_test'), ('env_live') on conflict do nothing`
})

const key = (kind: string, id: string, environment_id = 'env_test') => ({ kind, id, environment_id })
const workKeys = async () =>
  (await owner`select kind, id, wakes from work order by kind, id`).map((row) => ({ ...row }))

/** Wakes keys in their own order, in the transaction itself: the mutant of the lock order. */
async function wakeAtOnce(tx: Transaction, _outbox: Outbox, keys: ReturnType<typeof key>[]): Promise<void> {
  for (const { kind, id, environment_id } of keys) {
    await tx`select wake_keys(array[${kind}], array[${id}], array[${environment_id}])`
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function wakeByOutbox(_tx: Transaction, outbox: Outbox, keys: ReturnType<typeof key>[]): Promise<void> {
  outbox.wakes.push(...keys)
}

/** Two transactions at the same time, each of which wakes two resources in the opposite order. Returns their errors. */
async function wakeEachOther(wake: typeof wakeByOutbox): Promise<unknown[]> {
  const keys = [key('deployment', 'd'), key('instance', 'i')]
  const results = await Promise.allSettled(
    [keys, keys.toReversed()].map((order) =>
      withOutbox(testOutboxDeps(sql), ENVIRONMENT, (tx, outbox) => wake(tx, outbox, order)),
    ),
  )
  return results.flatMap((result) => (result.status === 'rejected' ? [result.reason.code] : []))
}

describe('the outbox writes wakes in one lock order', () => {
  beforeEach(async () => void (await owner`truncate work`))

  test('two resources that wake each other do not deadlock', async () => {
    for (let i = 0; i < 20; i++) assert.deepEqual(await wakeEachOther(wakeByOutbox), [])
    assert.deepEqual(await workKeys(), [
      { kind: 'deployment', id: 'd', wakes: 40 },
      { kind: 'instance', id: 'i', wakes: 40 },
    ])
  })

  test('the same two deadlock when they wake in the order in which they write', async () => {
    assert.deepEqual(await wakeEachOther(wakeAtOnce), ['40P01'])
  })

  test('200 concurrent writes that wake across resources all commit, with events and leases among them', async () => {
    const random = seededRandom(9)
    const ids = ['a', 'b', 'c', 'd']
    const all = KINDS.flatMap((kind) => ids.map((id) => key(kind, id)))
    await owner`insert into work (kind, id, environment_id, due_at, lease)
      select kind, id, 'env_test', now(), 7 from unnest(${all.map((k) => k.kind)}::text[], ${all.map((k) => k.id)}::text[]) as k(kind, id)`
    const expected = new Map(all.map(({ kind, id }) => [`${kind} ${id}`, 1]))
    const writes = Array.from({ length: 200 }, () => {
      const wakes = Array.from({ length: 1 + random.integer(6) }, () => all[random.integer(all.length)]!)
      const leased = random.integer(2) === 0 ? { ...all[random.integer(all.length)]!, lease: 7 } : null
      const emits = random.integer(2) === 0
      for (const name of new Set(wakes.map(({ kind, id }) => `${kind} ${id}`))) {
        expected.set(name, expected.get(name)! + 1)
      }
      return withOutbox(
        testOutboxDeps(sql),
        ENVIRONMENT,
        async (_tx, outbox) => {
          outbox.wakes.push(...wakes)
          const data = { object: { object: 'webhook' as const } }
          if (emits) outbox.events.push({ type: 'webhook.ping', resource_id: 'whk_1', request_id: null, data })
        },
        { lease: leased },
      )
    })
    await Promise.all(writes)
    const rows = await owner<{ kind: string; id: string; wakes: number }[]>`select kind, id, wakes from work`
    assert.deepEqual(new Map(rows.map(({ kind, id, wakes }) => [`${kind} ${id}`, wakes])), expected)
  })
})

describe('the outbox', () => {
  beforeEach(async () => void (await owner`truncate work`))

  test('wakes a key once however often the transaction adds it', async () => {
    await withOutbox(testOutboxDeps(sql), ENVIRONMENT, async (_tx, outbox) => {
      outbox.wakes.push(key('instance', 'i'), key('instance', 'i'), key('image', 'x', 'env_live'))
    })
    assert.deepEqual(await workKeys(), [
      { kind: 'image', id: 'x', wakes: 1 },
      { kind: 'instance', id: 'i', wakes: 1 },
    ])
  })

  test('writes nothing when the lease of its claim was lost', async () => {
    await owner`insert into work (kind, id, environment_id, due_at, lease) values ('instance', 'i', 'env_test', now(), 2)`
    const write = withOutbox(
      testOutboxDeps(sql),
      ENVIRONMENT,
      async (tx, outbox) => {
        await tx`select 1`
        outbox.wakes.push(key('deployment', 'd'), key('webhook', 'w'))
      },
      { lease: { kind: 'instance', id: 'i', lease: 1 } },
    )
    await assert.rejects(write, { code: LEASE_LOST })
    assert.deepEqual(await workKeys(), [{ kind: 'instance', id: 'i', wakes: 1 }])
  })

  test('writes nothing in a dry run', async () => {
    const preview = await withOutbox(
      testOutboxDeps(sql),
      ENVIRONMENT,
      async (_tx, outbox) => {
        outbox.wakes.push(key('instance', 'i'))
        return 'preview'
      },
      { dry_run: true },
    )
    assert.equal(preview, 'preview')
    assert.deepEqual(await workKeys(), [])
  })
})
