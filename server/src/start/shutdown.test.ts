import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as settled } from 'node:timers/promises'
import fc from 'fast-check'
import { silentLog } from '../lib/log.ts'
import { createManualClock, type ManualClock } from '../testing/manual-clock.ts'
import { createShutdown, createSteps, DEADLINE_MS } from './shutdown.ts'

const TICK_MS = 100
const MAX_STEPS = 6

/** Advances the clock until the work ends; returns the milliseconds that it took. */
async function elapse(clock: ManualClock, work: Promise<unknown>): Promise<number> {
  const begin = clock.monotonic()
  let ended = false
  void work.then(() => (ended = true))
  for (let i = 0; i < 1_000; i++) {
    // Timers of zero milliseconds, one after the other.
    for (let step = 0; step < MAX_STEPS; step++) {
      await settled()
      clock.advance(0)
    }
    await settled()
    if (ended) return clock.monotonic() - begin
    clock.advance(TICK_MS)
  }
  throw new Error('the work does not end')
}

/** A log that collects the parts named in warnings. */
function collectWarnings() {
  const parts: string[] = []
  return { parts, log: { ...silentLog, warn: (fields: object) => void parts.push((fields as { part: string }).part) } }
}

test('runs every step in reverse order and in time, whatever the earlier ones do', async () => {
  const step = fc.record({
    limit: fc.integer({ min: 0, max: 15 }).map((ticks) => ticks * TICK_MS),
    duration: fc.oneof(
      fc.integer({ min: 0, max: 40 }).map((ticks) => ticks * TICK_MS),
      fc.constant(Number.POSITIVE_INFINITY),
    ),
    fails: fc.boolean(),
  })
  const available = fc.integer({ min: 30, max: 95 }).map((ticks) => ticks * TICK_MS)
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: MAX_STEPS }), available, async (given, ms) => {
      const clock = createManualClock()
      const { parts, log } = collectWarnings()
      const steps = createSteps(clock, log)
      const ran: { name: string; ms: number }[] = []
      given.forEach(({ limit, duration, fails }, i) => {
        steps.add(`${i}`, limit, async (ms) => {
          ran.push({ name: `${i}`, ms })
          await clock.sleep(duration)
          if (fails) throw new Error('planned')
        })
      })
      const taken = await elapse(clock, steps.run(ms))
      assert.deepEqual(
        ran.map(({ name }) => name),
        given.map((_, i) => `${i}`).reverse(),
      )
      assert.ok(taken <= ms, `${taken} ms of ${ms} ms`)
      assert.equal(ran.at(-1)!.ms, Math.min(given[0]!.limit, ms), 'the last step keeps its limit')
      const noted = ran.filter(({ name, ms }) => given[Number(name)]!.fails || given[Number(name)]!.duration > ms)
      for (const { name } of noted) assert.ok(parts.includes(name), `no warning about step ${name}`)
    }),
  )
})

test('a step that runs late leaves the later ones their limits', async () => {
  const clock = createManualClock()
  const steps = createSteps(clock, silentLog)
  const given: number[] = []
  const never = (ms: number) => {
    given.push(ms)
    return new Promise(() => {})
  }
  steps.add('last', 2_000, never)
  steps.add('second', 500, never)
  steps.add('first', 4_500, never)
  assert.equal(await elapse(clock, steps.run(6_000)), 6_000)
  assert.deepEqual(given, [3_500, 500, 2_000])
})

test('rejects limits that exceed the deadline together', () => {
  const steps = createSteps(createManualClock(), silentLog)
  const close = async () => {}
  steps.add('one', DEADLINE_MS - 1, close)
  assert.throws(() => steps.add('two', 2, close), /limits of the shutdown steps exceed/)
})

test('waits three seconds for a start in progress, then closes what it has opened, and exits once', async () => {
  const clock = createManualClock()
  const exits: number[] = []
  const closed: string[] = []
  const shutdown = createShutdown(clock, silentLog, (code) => void exits.push(code))
  void shutdown.start(() => {
    shutdown.add('opened', 1_000, async () => void closed.push('opened'))
    return new Promise(() => {})
  })
  const stops = Promise.all([shutdown.stop(0), shutdown.stop(1)])
  assert.ok(shutdown.signal.aborted)
  assert.equal(await elapse(clock, stops), 3_000)
  assert.deepEqual([closed, exits], [['opened'], [0]])
})

test('closes a step that the start adds while it is stopped', async () => {
  const clock = createManualClock()
  const closed: string[] = []
  const shutdown = createShutdown(clock, silentLog, () => {})
  const start = shutdown.start(async () => {
    await clock.sleep(500)
    shutdown.add('late', 1_000, async () => void closed.push('late'))
  })
  const taken = await elapse(clock, Promise.all([shutdown.stop(0), start]))
  assert.deepEqual([taken, closed], [500, ['late']])
})
