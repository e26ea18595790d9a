/**
 * Bound and fairness over several processes, with gcra.ts and with the real SQL: the same arrivals and assertions. All
 * clocks are manual, so a history can be repeated.
 */
import assert from 'node:assert/strict'
import { afterEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { createTestDatabase } from '../db/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { createManualClock, type ManualClock } from '../testing/manual-clock.ts'
import type { Policy } from './gcra.ts'
import { type BucketExchange, type BucketStore, createBucketStore } from './store.ts'
import { createIdealBucket, createMemoryStore, createProcesses, type Process } from './testing.ts'

const { sql, owner } = await createTestDatabase()
const EPSILON = 0.01

type MakeStore = (now: () => number) => BucketStore
const STORES: { name: string; make: MakeStore; runs: number }[] = [
  { name: 'arithmetic', make: createMemoryStore, runs: 300 },
  { name: 'SQL', make: (now) => createBucketStore(sql, now), runs: 60 },
]

const policies = fc.constantFrom<Policy>(
  { rate_per_second: 100, burst: 1_000 },
  { rate_per_second: 20, burst: 100 },
  { rate_per_second: 5, burst: 50 },
  { rate_per_second: 1 / 3, burst: 20 },
  { rate_per_second: 3, burst: 1 },
  { rate_per_second: 40, burst: 60 },
)
/** Time passes, then a process receives some requests at once. */
const arrival = fc.record({
  wait_ms: fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 0, max: 60 }) },
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 1_500 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 30_000 }) },
  ),
  process: fc.integer({ min: 0, max: 3 }),
  count: fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 1, max: 4 }) }, fc.integer({ min: 1, max: 120 })),
  /** One after the other, or concurrently in one statement. */
  together: fc.boolean(),
})
const arrivals = fc.array(arrival, { minLength: 1, maxLength: 60 })

async function world(policy: Policy, processes: number, make: MakeStore) {
  await owner`truncate rate_limits`
  const clock = createManualClock()
  const base = clock.now().getTime()
  let step_ms = 0
  const real = make(() => (base + clock.monotonic() + step_ms) / 1_000)
  // If the statement failed, the process would decide alone, and the test would not cover the shared bucket.
  const store = { ...real, exchange: (exchanges: BucketExchange[]) => watched(real.exchange(exchanges)) }
  return {
    clock,
    processes: createProcesses(processes, policy, clock, store),
    stepDatabase: (ms: number) => void (step_ms += ms),
  }
}

function watched<T>(statement: Promise<T>): Promise<T> {
  pending = statement.catch(() => {})
  return statement.catch(failed)
}
function failed(error: Error): never {
  failures.push(error)
  throw error
}
const failures: Error[] = []
afterEach(() => assert.deepEqual(failures.splice(0), []))

/** Advances time in small steps, and completes the statements that timers started. */
async function pass(clock: ManualClock, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 200) {
    clock.advance(Math.min(left, 200))
    for (let seen: unknown = null; seen !== pending; ) {
      seen = pending
      await pending
      for (let i = 0; i < 10; i++) await Promise.resolve()
    }
  }
}
let pending: Promise<unknown> = Promise.resolve()

describe('shared limits', () => {
  for (const { name, make, runs } of STORES) {
    test(`${name}: accepts at most burst + rate * time requests in any window`, async () => {
      const property = fc.asyncProperty(policies, fc.integer({ min: 1, max: 4 }), arrivals, async (...given) => {
        const [policy, count, sequence] = given
        const { clock, processes } = await world(policy, count, make)
        const ideal = createIdealBucket(policy)
        let passed = 0
        let most = 0
        for (const { wait_ms, process, count, together } of sequence) {
          await pass(clock, wait_ms)
          const { limiter, bucket } = processes[process % processes.length]!
          const take = () => limiter.take([bucket])
          const verdicts = []
          if (together) verdicts.push(...(await Promise.all(Array.from({ length: count }, take))))
          else for (let i = 0; i < count; i++) verdicts.push(await take())
          const allowed = verdicts.filter((verdict) => verdict === null).length
          assert.ok(ideal.take(clock.monotonic(), allowed) >= -EPSILON, 'more than the bound')
          passed += allowed
          most += count
        }
        assert.ok(passed > 0 && passed <= most)
      })
      await fc.assert(property, { numRuns: runs })
    })

    test(`${name}: never rejects a client within the rate and nine tenths of the burst, at any process`, async () => {
      const property = fc.asyncProperty(policies, fc.integer({ min: 1, max: 4 }), arrivals, async (...given) => {
        const [policy, count, sequence] = given
        const { clock, processes } = await world(policy, count, make)
        // A twentieth of the burst can be lent to other processes, and another one not refilled.
        const depth = policy.burst - 2 * Math.floor(policy.burst / 20) - (policy.burst >= 20 ? 1 : 0)
        const fair = createIdealBucket({ rate_per_second: 0.95 * policy.rate_per_second, burst: depth })
        for (const { wait_ms, process, count, together } of sequence) {
          await pass(clock, wait_ms)
          const { limiter, bucket } = processes[process % processes.length]!
          const now = clock.monotonic()
          const some = Math.min(count, Math.floor(fair.level(now)))
          fair.take(now, some)
          const take = () => limiter.take([bucket])
          const verdicts = []
          if (together) verdicts.push(...(await Promise.all(Array.from({ length: some }, take))))
          else for (let i = 0; i < some; i++) verdicts.push(await take())
          assert.ok(verdicts.every((verdict) => verdict === null))
        }
      })
      await fc.assert(property, { numRuns: runs })
    })

    test(`${name}: a retry after Retry-After succeeds at any process, and rejections cost nothing`, async () => {
      const property = fc.asyncProperty(policies, arrivals, async (policy, sequence) => {
        const { clock, processes } = await world(policy, 3, make)
        for (const { wait_ms, process, count } of sequence.slice(0, 20)) {
          await pass(clock, wait_ms)
          const at = (n: number) => processes[n % processes.length]!
          const { limiter, bucket } = at(process)
          const verdicts = await Promise.all(Array.from({ length: count * 20 }, () => limiter.take([bucket])))
          const refused = verdicts.find((verdict) => verdict !== null)
          if (!refused) continue
          assert.equal(refused.reason, 'rate')
          await pass(clock, Math.ceil(refused.wait_seconds) * 1_000)
          const other = at(process + count)
          assert.equal(await other.limiter.take([other.bucket]), null)
        }
      })
      await fc.assert(property, { numRuns: runs })
    })

    test(`${name}: a step of the database's clock gains at most a burst and loses at most a full refill`, async () => {
      const hour = 3_600_000
      const property = fc.asyncProperty(
        policies,
        fc.constantFrom(-hour, hour),
        arrivals,
        async (policy, step, sequence) => {
          const { clock, processes, stepDatabase } = await world(policy, 2, make)
          const { limiter, bucket } = processes[0]!
          const drain = async () => {
            const verdicts = Array.from({ length: policy.burst + 200 }, () => limiter.take([bucket]))
            return (await Promise.all(verdicts)).filter((verdict) => verdict === null).length
          }
          await drain()
          for (const { wait_ms } of sequence.slice(0, 3)) await pass(clock, wait_ms)
          stepDatabase(step)
          assert.ok((await drain()) <= policy.burst)
          // A rejection before the step is cached for the time of one token; only after it is the step visible.
          await pass(clock, 1_000 / policy.rate_per_second + 1)
          assert.ok((await drain()) <= policy.burst + 2)
          await pass(clock, (policy.burst / policy.rate_per_second) * 1_000 + 3_000)
          const again = await drain()
          assert.ok(again <= policy.burst && again >= policy.burst - Math.floor(policy.burst / 20), `${again}`)
        },
      )
      await fc.assert(property, { numRuns: Math.ceil(runs / 3) })
    })
  }

  test('a clock that is set back takes no tokens from a client', async () => {
    const { clock, processes, stepDatabase } = await world({ rate_per_second: 20, burst: 100 }, 2, createMemoryStore)
    const [{ limiter, bucket }, other] = processes as [Process, Process]
    for (let i = 0; i < 30; i++) assert.equal(await limiter.take([bucket]), null)
    stepDatabase(-3_600_000)
    await pass(clock, 10)
    for (let i = 0; i < 60; i++) assert.equal(await other.limiter.take([other.bucket]), null)
  })

  test('a client that alternates between processes has its whole burst, because lent tokens are returned', async () => {
    const policy = { rate_per_second: 100, burst: 1_000 }
    const { clock, processes } = await world(policy, 3, createMemoryStore)
    const fair = createIdealBucket({ rate_per_second: 95, burst: 899 })
    const request = async (process: Process) => {
      fair.take(clock.monotonic())
      assert.equal(await process.limiter.take([process.bucket]), null)
    }
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 2_000; i++) {
        await pass(clock, 1_000 / 95)
        await request(processes[Math.floor(i / 35) % 3]!)
      }
      const [last] = processes.slice(round % 3)
      while (fair.level(clock.monotonic()) >= 1) await request(last!)
      await pass(clock, 9_500)
    }
  })

  test('requests that arrive during a statement use its loan without another statement', async () => {
    const exchanges: BucketExchange[] = []
    const store: BucketStore = {
      async exchange(batch) {
        exchanges.push(...batch)
        await Promise.resolve()
        return batch.map(({ request }) => ({ sold: request.need, lent: 40, slot: 0, available: 900 }))
      },
      async removeIdle() {},
    }
    const [process] = createProcesses(1, { rate_per_second: 100, burst: 1_000 }, createManualClock(), store)
    const { limiter, bucket } = process!
    const verdicts = await Promise.all(Array.from({ length: 32 }, () => limiter.take([bucket])))
    assert.deepEqual([...new Set(verdicts)], [null])
    assert.deepEqual(
      exchanges.map(({ request }) => request.need),
      [1],
    )
    assert.equal(bucket.tokens, 40 - 31)
  })

  test('concurrent processes in real time stay within the bound', async () => {
    await owner`truncate rate_limits`
    const policy = { rate_per_second: 200, burst: 300 }
    const real = createBucketStore(sql)
    const store = { ...real, exchange: (exchanges: BucketExchange[]) => real.exchange(exchanges).catch(failed) }
    const processes = createProcesses(4, policy, systemClock, store)
    const begin = performance.now()
    const counts = await Promise.all(
      processes.map(async ({ limiter, bucket }) => {
        let allowed = 0
        while (performance.now() - begin < 1_200) {
          const verdicts = await Promise.all(Array.from({ length: 20 }, () => limiter.take([bucket])))
          allowed += verdicts.filter((verdict) => verdict === null).length
          await new Promise(setImmediate)
        }
        return allowed
      }),
    )
    const seconds = (performance.now() - begin) / 1_000
    const allowed = counts.reduce((sum, count) => sum + count)
    assert.ok(allowed <= policy.burst + policy.rate_per_second * seconds, `${allowed} in ${seconds} s`)
    assert.ok(allowed >= policy.burst, `${allowed}`)
    for (const { limiter } of processes) await limiter.close()
  })
})

describe('one process', () => {
  const policy = { rate_per_second: 100, burst: 1_000 }
  const setup = () => {
    const clock = createManualClock()
    const store = createMemoryStore(() => clock.now().getTime() / 1_000)
    const [process] = createProcesses(1, policy, clock, store)
    return { clock, store, ...process! }
  }

  test('a full bucket allows its whole burst, sequentially or concurrently', async () => {
    for (const together of [true, false]) {
      const { limiter, bucket } = setup()
      const verdicts = []
      if (together) verdicts.push(...(await Promise.all(Array.from({ length: 1_001 }, () => limiter.take([bucket])))))
      else for (let i = 0; i < 1_001; i++) verdicts.push(await limiter.take([bucket]))
      assert.equal(verdicts.filter((verdict) => verdict === null).length, 1_000)
    }
  })

  test('a steady client costs few statements, a rejection at most one, and repeated rejected requests none', async () => {
    const { clock, store, limiter, bucket } = setup()
    let undecided = 0
    for (let i = 0; i < 950; i++) {
      clock.advance(10)
      const verdict = limiter.take([bucket])
      if (verdict instanceof Promise) undecided++
      assert.equal(await verdict, null)
    }
    assert.ok(undecided < 60, `${undecided} of 950 waited for a statement`)
    while ((await limiter.take([bucket])) === null);
    const before = store.statements
    for (let i = 0; i < 1_000; i++) assert.notEqual(await limiter.take([bucket]), null)
    assert.equal(store.statements, before)
  })

  test('the remaining tokens never increase without time passing', async () => {
    await fc.assert(
      fc.asyncProperty(arrivals, async (sequence) => {
        const { clock, limiter, bucket } = setup()
        for (const { wait_ms, count } of sequence) {
          await pass(clock, wait_ms)
          let last = Infinity
          for (let i = 0; i < count; i++) {
            await limiter.take([bucket])
            assert.ok(limiter.remaining([bucket])[0]! <= last)
            last = limiter.remaining([bucket])[0]!
          }
        }
      }),
      { numRuns: 100 },
    )
  })

  test('a rejection by one bucket takes no token of the others', async () => {
    const { clock, store, limiter, bucket } = setup()
    const [narrow] = createProcesses(1, { rate_per_second: 1, burst: 5 }, clock, store)
    const tight = { ...narrow!.bucket, id: 'key_1:creates' }
    let allowed = 0
    for (let i = 0; i < 50; i++) if ((await limiter.take([tight, bucket])) === null) allowed++
    assert.equal(allowed, 5)
    await pass(clock, 300)
    await limiter.refresh([bucket])
    assert.ok(limiter.remaining([bucket])[0]! >= 995, `${limiter.remaining([bucket])[0]!}`)
  })

  test('without the database, limits reads locally, rejects creates, and retries later', async () => {
    const { clock, store, bucket } = setup()
    let isAway = true
    let statements = 0
    const shaky: BucketStore = {
      async exchange(exchanges) {
        statements++
        if (isAway) throw new DatabaseUnavailableError(new Error('away'))
        return store.exchange(exchanges)
      },
      async removeIdle() {},
    }
    const [{ limiter }] = createProcesses(1, policy, clock, shaky) as [ReturnType<typeof createProcesses>[0]]
    let passed = 0
    for (let i = 0; i < 1_500; i++) if ((await limiter.take([bucket])) === null) passed++
    assert.equal(passed, 1_000)
    assert.equal(statements, 1)
    const create = { ...bucket, id: 'key_1:creates', when_unavailable: 'refuse' as const, refused_until: 0 }
    const verdict = await limiter.take([create])
    assert.equal(verdict?.reason, 'unavailable')
    isAway = false
    await pass(clock, 1_200)
    assert.equal(await limiter.take([create]), null)
  })

  test('abandons a statement that hangs, and returns its tokens when it ends later', async () => {
    const { clock, store, bucket } = setup()
    let release = () => {}
    const hanging: BucketStore = {
      exchange: async (exchanges) => {
        await new Promise<void>((resolve) => (release = resolve))
        return store.exchange(exchanges)
      },
      async removeIdle() {},
    }
    const [{ limiter }] = createProcesses(1, policy, clock, hanging) as [ReturnType<typeof createProcesses>[0]]
    const verdict = limiter.take([bucket])
    clock.advance(1_000)
    assert.equal(await verdict, null)
    assert.equal(await limiter.take([bucket]), null)
    release()
    await pass(clock, 10)
    assert.equal(bucket.returned, 1)
  })
})
