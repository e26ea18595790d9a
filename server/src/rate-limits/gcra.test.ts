import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { createTestDatabase } from '../db/testing.ts'
import { type BucketState, decide, exchange, extraFor, FULL, LEASE_MS, type Policy } from './gcra.ts'
import { createBucketStore } from './store.ts'
import { createIdealBucket } from './testing.ts'

const policy = fc.record({
  rate_per_second: fc.oneof(fc.integer({ min: 1, max: 500 }), fc.double({ min: 0.05, max: 5, noNaN: true })),
  burst: fc.integer({ min: 1, max: 2_000 }),
})
const request = fc.record({
  need: fc.integer({ min: 0, max: 50 }),
  extra: fc.integer({ min: 0, max: 50 }),
  returned: fc.integer({ min: 0, max: 20 }),
  ended: fc.option(fc.record({ ago: fc.integer({ min: 0, max: 3 }), size: fc.integer({ min: 1, max: 50 }) })),
})
const waits = fc.oneof(fc.integer({ min: 0, max: 3_000 }), fc.integer({ min: -7_200_000, max: 7_200_000 }))

describe('one bucket', () => {
  test('a single process is an exact token bucket', () => {
    const gaps = fc.array(fc.integer({ min: 0, max: 5_000 }), { maxLength: 200 })
    fc.assert(
      fc.property(policy, gaps, (policy, gaps) => {
        const ideal = createIdealBucket(policy)
        let tat = -Infinity
        let now = 0
        for (const gap of gaps) {
          now += gap
          const level = ideal.level(now)
          const decision = decide(policy, tat, 1e9 + now / 1_000)
          tat = decision.tat
          if (Math.abs(level - Math.round(level)) > 0.01) assert.equal(decision.allowed, level >= 1, `${level}`)
          if (decision.allowed) ideal.take(now)
          else assert.ok(Math.abs(decision.wait_seconds - (1 - level) / policy.rate_per_second) < 0.01)
          assert.ok(decision.remaining >= 0 && decision.remaining <= policy.burst)
        }
      }),
    )
  })

  test('a rejection changes nothing', () => {
    const full: Policy = { rate_per_second: 1, burst: 3 }
    let tat = -Infinity
    for (let i = 0; i < 3; i++) tat = decide(full, tat, 1_000).tat
    for (let i = 0; i < 10; i++)
      assert.deepEqual(decide(full, tat, 1_000.5), { allowed: false, tat, remaining: 0, wait_seconds: 0.5 })
    assert.equal(decide(full, tat, 1_001).allowed, true)
  })

  test('lent and available tokens never exceed the burst, and few are lent', () => {
    const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 3_000 }), request), { maxLength: 60 })
    fc.assert(
      fc.property(policy, steps, (policy, steps) => {
        let state: BucketState = FULL
        let now = 1e9
        for (const [wait, wanted] of steps) {
          now += wait / 1_000
          const [next, result] = exchange(policy, state, { ...wanted, ended: null }, now)
          assert.ok(result.available + next.lent + next.lent_before <= policy.burst + 0.01)
          assert.ok(next.lent + next.lent_before <= policy.burst / 20)
          assert.ok(result.sold <= wanted.need && result.lent <= wanted.extra && result.available > -0.01)
          state = next
        }
      }),
    )
  })

  test('an idle key borrows nothing, and a busy key what it needs', () => {
    assert.equal(extraFor(0, Infinity), 0)
    assert.equal(extraFor(1, LEASE_MS + 1), 0)
    assert.equal(extraFor(10, 100), 20)
    assert.equal(extraFor(50, 500), 75)
  })
})

test('the SQL function computes the same exchange as gcra.ts, for any clock', async () => {
  const { sql, owner } = await createTestDatabase()
  let now = 0
  const store = createBucketStore(sql, () => now)
  const steps = fc.array(fc.tuple(waits, fc.array(request, { minLength: 1, maxLength: 3 })), { maxLength: 25 })
  await fc.assert(
    fc.asyncProperty(fc.array(policy, { minLength: 3, maxLength: 3 }), steps, async (policies, steps) => {
      await owner`truncate rate_limits`
      const states = policies.map((): BucketState => FULL)
      now = 1.75e9
      for (const [wait, wanted] of steps) {
        now += wait / 1_000
        const slot = Math.floor(now)
        const exchanges = wanted.map(({ ended, ...rest }, i) => ({
          bucket: `bucket ${(i * 7) % 3}`,
          environment_id: 'env_1',
          policy: policies[i]!,
          request: { ...rest, ended: ended && { slot: slot - ended.ago, size: ended.size } },
        }))
        const results = await store.exchange(exchanges)
        exchanges.forEach(({ policy, request }, i) => {
          const [state, result] = exchange(policy, states[i]!, request, now)
          states[i] = state
          const { available, ...whole } = results[i]!
          assert.deepEqual(
            { ...whole, bucket: undefined },
            { sold: result.sold, lent: result.lent, slot: result.slot, bucket: undefined },
          )
          assert.ok(Math.abs(available - result.available) < 1e-3, `${available} ${result.available}`)
        })
      }
    }),
    { numRuns: 60 },
  )
})

test('removes the rows of full buckets', async () => {
  const { sql } = await createTestDatabase()
  const at = (seconds: number) => createBucketStore(sql, () => seconds)
  const one = (bucket: string) => [
    {
      bucket,
      environment_id: 'env_1',
      policy: { rate_per_second: 1, burst: 10 },
      request: { need: 1, extra: 0, returned: 0, ended: null },
    },
  ]
  await at(1.7e9).exchange(one('old'))
  await createBucketStore(sql).exchange(one('new'))
  await at(0).removeIdle()
  assert.deepEqual(await sql`select bucket from rate_limits`.then((rows) => rows.map(({ bucket }) => bucket)), ['new'])
})
