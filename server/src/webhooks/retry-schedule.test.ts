import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  type Health,
  healthAfter,
  JITTER,
  MAX_RETRY_AFTER_SECONDS,
  retryAfterSeconds,
  SCHEDULE_SECONDS,
  secondsUntilRetry,
} from './retry-schedule.ts'

const chance = fc.double({ min: 0, max: 1, noNaN: true })
const DAY = 86_400_000

describe('secondsUntilRetry and retryAfterSeconds', () => {
  test('the schedule of the specification has ten attempts in 75:35:05', () => {
    assert.equal(SCHEDULE_SECONDS.length, 10)
    assert.equal(
      SCHEDULE_SECONDS.reduce<number>((sum, seconds) => sum + seconds, 0),
      75 * 3600 + 35 * 60 + 5,
    )
  })

  test('each delay is at least as scheduled and at most a fifth longer; the tenth attempt is the last', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), chance, (made, by) => {
        const seconds = secondsUntilRetry(made, null, by)
        if (made >= 10) return assert.equal(seconds, null)
        const planned = SCHEDULE_SECONDS[made]!
        assert.ok(seconds! >= planned && seconds! <= planned * (1 + JITTER) + 1e-6)
      }),
    )
  })

  test('Retry-After can only increase the delay, to at most a day, and adds no attempt', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.nat(10_000_000), chance, (made, retryAfter, by) => {
        const without = secondsUntilRetry(made, null, by)
        const seconds = secondsUntilRetry(made, retryAfter, by)
        if (without === null) return assert.equal(seconds, null)
        assert.equal(seconds, Math.max(without, Math.min(retryAfter, MAX_RETRY_AFTER_SECONDS)))
      }),
    )
  })

  test('Retry-After is parsed as seconds or a date; anything else is ignored', () => {
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
        ['1.5', 1.5],
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
    const forms = [
      'Tue, 01 Jan 2030 00:10:00 GMT',
      'Tuesday, 01-Jan-30 00:10:00 GMT',
      'Tue Jan  1 00:10:00 2030',
      '600',
      ' 600.0 ',
      '300, 600',
    ]
    for (const text of forms) assert.equal(retryAfterSeconds(text, new Date('2030-01-01T00:00:00Z')), 600, text)
    assert.equal(retryAfterSeconds('600.5', now), 600.5)
    // Two digits of a year more than 50 years ahead are of the past.
    assert.equal(retryAfterSeconds('Sunday, 06-Nov-94 08:49:37 GMT', new Date('2030-01-01T00:00:00Z')), 0)
    fc.assert(fc.property(fc.string(), (text) => (retryAfterSeconds(text, now) ?? 0) >= 0))
  })
})

describe('healthAfter', () => {
  const start = Date.parse('2030-01-01T00:00:00Z')
  const healthy: Health = { failing_since: null, failed_at: null, throttled: false }
  const failed = { succeeded: false, status: 500 }

  test('property: disables after 410, or after five days of failures only, one of them at least 12 hours after the first', () => {
    const step = fc.record({
      hours: fc.nat(60),
      succeeded: fc.nat(9).map((n) => n === 0),
      gone: fc.nat(30).map((n) => n === 0),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        let health = healthy
        let at = start
        let failures: number[] = []
        for (const { hours, succeeded, gone } of steps) {
          at += hours * 3_600_000
          const status = succeeded ? 200 : gone ? 410 : 500
          const { disable, ...next } = healthAfter(health, { succeeded, status }, new Date(at))
          health = next
          if (succeeded) {
            failures = []
            assert.deepEqual([health, disable], [healthy, null])
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

  test('does not disable after two failures that are five days apart', () => {
    const first = healthAfter(healthy, failed, new Date(start))
    assert.equal(healthAfter(first, failed, new Date(start + 6 * DAY)).disable, null)
  })

  test('throttles from 429, 502, 503 or 504 until a success', () => {
    for (const status of [429, 502, 503, 504]) {
      const busy = healthAfter(healthy, { succeeded: false, status }, new Date(start))
      assert.ok(busy.throttled, String(status))
      assert.ok(healthAfter(busy, failed, new Date(start)).throttled)
      assert.ok(!healthAfter(busy, { succeeded: true, status: 200 }, new Date(start)).throttled)
    }
    for (const status of [500, 404, null]) {
      assert.ok(!healthAfter(healthy, { succeeded: false, status }, new Date(start)).throttled)
    }
  })
})
