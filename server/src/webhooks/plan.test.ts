import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  type Health,
  healthAfter,
  JITTER,
  RETRY_AFTER_MOST_SECONDS,
  retryAfterSeconds,
  SCHEDULE_SECONDS,
  secondsUntilRetry,
} from './plan.ts'

const chance = fc.double({ min: 0, max: 1, noNaN: true })
const DAY = 86_400_000

describe('when a delivery is tried again', () => {
  test('the schedule is that of the specification: ten attempts in 75:35:05', () => {
    assert.equal(SCHEDULE_SECONDS.length, 10)
    assert.equal(
      SCHEDULE_SECONDS.reduce<number>((sum, seconds) => sum + seconds, 0),
      75 * 3600 + 35 * 60 + 5,
    )
  })

  test('each wait is as planned and up to a fifth longer; the tenth is the last', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), chance, (made, by) => {
        const seconds = secondsUntilRetry(made, null, by)
        if (made >= 10) return assert.equal(seconds, null)
        const planned = SCHEDULE_SECONDS[made]!
        assert.ok(seconds! >= planned && seconds! <= planned * (1 + JITTER) + 1e-6)
      }),
    )
  })

  test('Retry-After only ever postpones, a day at most, and never beyond the last attempt', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.nat(10_000_000), chance, (made, asked, by) => {
        const without = secondsUntilRetry(made, null, by)
        const seconds = secondsUntilRetry(made, asked, by)
        if (without === null) return assert.equal(seconds, null)
        assert.equal(seconds, Math.max(without, Math.min(asked, RETRY_AFTER_MOST_SECONDS)))
      }),
    )
  })

  test('Retry-After is read as seconds or as a date, and as nothing else', () => {
    const now = new Date('2030-01-01T00:00:00Z')
    for (const [text, seconds] of [
      ...([
        ['0', 0],
        ['120', 120],
        [' 7 ', 7],
        ['Tue, 01 Jan 2030 00:01:00 GMT', 60],
      ] as const),
      ...([
        ['Mon, 31 Dec 2029 00:00:00 GMT', 0],
        [undefined, null],
        ['', null],
        ['-1', null],
        ['1.5', null],
      ] as const),
      ...([
        ['1e9', null],
        ['soon', null],
        ['2030-01-02', null],
        ['99999999999', null],
      ] as const),
      ['Tue, 99 Xyz 2030 00:01:00 GMT', null],
    ] as const) {
      assert.equal(retryAfterSeconds(text, now), seconds, String(text))
    }
    fc.assert(fc.property(fc.string(), (text) => (retryAfterSeconds(text, now) ?? 0) >= 0))
  })
})

describe('how an endpoint does', () => {
  const start = Date.parse('2030-01-01T00:00:00Z')
  const well: Health = { failing_since: null, failed_at: null, throttled: false }
  const failed = { succeeded: false, status: 500 }

  test('property: it is given up for five days of nothing but failures, of which one was clearly later, or for 410', () => {
    const step = fc.record({
      hours: fc.nat(60),
      succeeded: fc.nat(9).map((n) => n === 0),
      gone: fc.nat(30).map((n) => n === 0),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        let health = well
        let at = start
        let failures: number[] = []
        for (const { hours, succeeded, gone } of steps) {
          at += hours * 3_600_000
          const status = succeeded ? 200 : gone ? 410 : 500
          const { disable, ...next } = healthAfter(health, { succeeded, status }, new Date(at))
          health = next
          if (succeeded) {
            failures = []
            assert.deepEqual([health, disable], [well, null])
            continue
          }
          const before = failures.at(-1) ?? at
          failures.push(at)
          assert.deepEqual([health.failing_since?.getTime(), health.failed_at?.getTime()], [failures[0], at])
          const over = at - failures[0]! >= 5 * DAY && before - failures[0]! >= DAY / 2
          assert.equal(disable, gone ? 'gone' : over ? 'failing' : null)
        }
      }),
    )
  })

  test('two failures five days apart are no reason', () => {
    const first = healthAfter(well, failed, new Date(start))
    assert.equal(healthAfter(first, failed, new Date(start + 6 * DAY)).disable, null)
  })

  test('it is busy from 429, 502, 503 or 504 until a success', () => {
    for (const status of [429, 502, 503, 504]) {
      const busy = healthAfter(well, { succeeded: false, status }, new Date(start))
      assert.ok(busy.throttled, String(status))
      assert.ok(healthAfter(busy, failed, new Date(start)).throttled)
      assert.ok(!healthAfter(busy, { succeeded: true, status: 200 }, new Date(start)).throttled)
    }
    for (const status of [500, 404, null]) {
      assert.ok(!healthAfter(well, { succeeded: false, status }, new Date(start)).throttled)
    }
  })
})
