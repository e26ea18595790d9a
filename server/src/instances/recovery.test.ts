/** Counting of failures, backoff and crash loops; the record of a recovery. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ObservedMachine, Trouble } from '../drivers/driver.ts'
import { detailsOf } from './event-details.ts'
import {
  BACKOFF_SECONDS,
  backoffLeft,
  downtimeSeconds,
  failureCauseOf,
  failuresAfter,
  HEALTHY_SECONDS,
  isCrashLoop,
  MAX_FAILURES,
  needsRecoverySlot,
  recoveryAfter,
  WINDOW_SECONDS,
} from './recovery.ts'
import type { Failures, InstanceRow } from './row.ts'
import { newRow } from './testing.ts'

const START = Date.parse('2030-01-01T00:00:00Z')
const at = (seconds: number) => new Date(START + seconds * 1000)
const machineOf = (changes: Partial<ObservedMachine> = {}): ObservedMachine => ({
  ...{ id: 'inst_0000000000', power: 'crashed', disk: 1, run: 1, ready: false, started_at: at(0), vcpus: 1 },
  ...{ memory_bytes: 2 ** 30, disk_bytes: 2 ** 34, public_ip: null, ports: [], trouble: null },
  ...changes,
})

/** Failures at these times, of a guest that is ready again immediately each time. */
function afterFailuresAt(times: number[]): Failures | null {
  let row = newRow()
  for (const [index, time] of times.entries()) {
    const observed_ready_at = at(times[index - 1] ?? 0)
    row = { ...row, observed_ready_at, observed_recoveries: index, observed_recovering: false }
    row.observed_failures = failuresAfter(row, machineOf({ run: index + 1 }), true, at(time))
  }
  return row.observed_failures
}

describe('failures', () => {
  test('maps the observed state of a machine to a cause', () => {
    const shown = (power: ObservedMachine['power'], trouble: Trouble | null = null) =>
      failureCauseOf(machineOf({ power, trouble }))
    assert.equal(shown('crashed'), 'process_died')
    assert.equal(shown('stopped'), 'process_died')
    assert.equal(shown('crashed', 'host_reboot'), 'host_rebooted')
    assert.equal(shown('paused', 'panic'), 'guest_panicked')
    assert.equal(shown('paused', 'disk_error'), 'disk_error')
    assert.equal(shown('paused', 'disk_full'), 'disk_error')
    assert.equal(shown('running', 'hang'), 'guest_hung')
    assert.equal(shown('running'), null)
    assert.equal(shown('off'), null, 'a guest that powers itself off has not failed')
  })

  test('counts each failure once, however often it is observed', () => {
    const row = newRow({ observed_ready_at: at(0) })
    const once = failuresAfter(row, machineOf(), true, at(5))
    assert.deepEqual([once?.streak, once?.at, once?.run], [1, [at(5).toISOString()], 1])
    const again = { ...row, observed_recovering: true, observed_failures: once, observed_ready_at: null }
    for (const power of ['crashed', 'stopped', 'paused'] as const)
      assert.deepEqual(failuresAfter(again, machineOf({ power }), true, at(9)), once)
    const next = failuresAfter({ ...again, observed_recoveries: 1 }, machineOf({ run: 2 }), true, at(20))
    assert.deepEqual([next?.streak, next?.at.length, next?.run], [2, 2, 2])
  })

  test('the backoff doubles up to five minutes, and resets after ten healthy minutes', () => {
    const waits = Array.from({ length: 9 }, (_, n) => {
      const times = Array.from({ length: n + 1 }, (_each, i) => i * (HEALTHY_SECONDS - 1))
      return backoffLeft(afterFailuresAt(times)!, at(times.at(-1)!))
    })
    assert.deepEqual(waits, [...BACKOFF_SECONDS, 300, 300])
    const healthy = afterFailuresAt([0, 1, 2, 2 + HEALTHY_SECONDS])!
    assert.equal(backoffLeft(healthy, at(2 + HEALTHY_SECONDS)), 0)
    assert.equal(healthy.at.length, 4, 'all failures of the last half hour are still counted')
  })

  test('more than five failures in half an hour are a crash loop, fewer are not', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1200 }), { minLength: 1, maxLength: 30 }), (gaps) => {
        let now = 0
        const times: number[] = []
        for (const gap of gaps) {
          times.push((now += gap))
          const failures = afterFailuresAt(times)!
          const lately = times.filter((time) => now - time < WINDOW_SECONDS).length
          assert.equal(isCrashLoop(failures), lately > MAX_FAILURES)
          assert.ok(failures.at.length <= lately)
          const wait = backoffLeft(failures, at(now))
          assert.ok(BACKOFF_SECONDS.includes(wait))
          assert.equal(backoffLeft(failures, at(now + wait)), 0)
        }
      }),
      { numRuns: 300 },
    )
  })

  test('a host reboot is not counted and has no backoff; a newer request resets the count', () => {
    const failures = afterFailuresAt([0, 1, 2, 3, 4])!
    const row = newRow({ observed_recoveries: 4, observed_failures: failures, observed_ready_at: at(4) })
    const down = machineOf({ run: 5, trouble: 'host_reboot' })
    const after = failuresAfter(row, down, true, at(5))!
    assert.deepEqual([after.cause, after.streak, after.at], ['host_rebooted', failures.streak, failures.at])
    assert.equal(backoffLeft(after, at(5)), 0)
    assert.equal(failuresAfter({ ...row, wanted_run: 2 }, machineOf({ run: 1 }), false, at(6)), null)
  })
})

describe('the record of a recovery', () => {
  const row = (changes: Partial<InstanceRow>) =>
    newRow({ status: 'running', observed_ready_disk: 1, observed_run: 1, ...changes })
  const since = at(0).toISOString()
  const failures: Failures = { wish: 1, run: 1, cause: 'guest_hung', down_since: since, streak: 1, at: [since] }
  const down = { status: 'recovering', observed_recovering: true, observed_failures: failures } as const

  test('opens, counts starts, and ends with the downtime', () => {
    const begun = row({ ...down, observed_recovery_attempts: 0 })
    begun.recovery = recoveryAfter(row({}), begun, at(40))
    const started = { ...begun, observed_recovery_attempts: 1 }
    started.recovery = recoveryAfter(begun, started, at(42))
    const up = row({ recovery: started.recovery })
    up.recovery = recoveryAfter(started, up, at(45))
    const times = { detected_at: at(40).toISOString(), down_since: at(0).toISOString() }
    assert.deepEqual(up.recovery, {
      ...{ number: 1, cause: 'guest_hung', ...times, attempts: 1 },
      ...{ started_at: at(42).toISOString(), ended_at: at(45).toISOString(), outcome: 'recovered' },
    })
    assert.equal(downtimeSeconds(up.recovery!), 45)
    assert.equal(downtimeSeconds(started.recovery!), null)
    const { detected_at } = times
    assert.deepEqual(detailsOf('instance.recovering', row({}), begun), { cause: 'guest_hung', attempt: 1, detected_at })
    assert.deepEqual(detailsOf('instance.recovered', started, up), {
      ...{ cause: 'guest_hung', attempt: 1, downtime_seconds: 45, detected_at },
    })
    assert.equal(detailsOf('instance.updated', started, up), undefined)
  })

  test('is cancelled by a stop, a termination or expiry', () => {
    const begun = row({ ...down })
    begun.recovery = recoveryAfter(row({}), begun, at(1))
    for (const change of [{ wanted_power: 'stopped' }, { wanted_gone: true }, { observed_expired: true }] as const) {
      const after = recoveryAfter(begun, { ...begun, ...change, status: 'terminating' }, at(2))
      assert.deepEqual([after?.outcome, after?.ended_at], ['cancelled', at(2).toISOString()])
    }
  })

  test('only instances that failed with the host need a recovery slot', () => {
    const lost = machineOf({ trouble: 'host_reboot' })
    assert.equal(needsRecoverySlot(row({ observed_recovering: true }), lost), true)
    assert.equal(needsRecoverySlot(row({ observed_recovering: true }), machineOf()), false)
    assert.equal(needsRecoverySlot(row({}), lost), false)
    assert.equal(
      needsRecoverySlot(row({ observed_recovering: true, wanted_run: 2 }), lost),
      false,
      'it is started anew anyway',
    )
  })
})
