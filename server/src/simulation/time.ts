/**
 * Time that only the simulation advances. The clock of the process and that of the database (`now()`, see database.ts) advance
 * together, so real time (leases, backoff, expiry of keys) is simulated, too.
 */
import type { Query } from '../db/database.ts'
import type { Clock } from '../lib/clock.ts'

/** The start of every history. */
const START = Date.parse('2030-01-01T00:00:00Z')
/** Monotonic time between two histories, so that cached values of the previous one have expired. */
const BETWEEN_MS = 3_600_000

export type SimulatedClock = Clock & {
  /** Seconds since the start. */
  seconds(): number
  /** Returns to the start, after all timers were called. */
  restart(): void
  /** Advances time and calls due timers in order. */
  advance(ms: number): void
}

export function createSimulatedClock(): SimulatedClock {
  let at = START
  let monotonic = 0
  let timers: { due: number; callback: () => void }[] = []

  function advance(ms: number): void {
    at += ms
    monotonic += ms
    const due = timers.filter((timer) => timer.due <= monotonic).sort((a, b) => a.due - b.due)
    timers = timers.filter((timer) => timer.due > monotonic)
    for (const { callback } of due) callback()
  }
  function after(ms: number, callback: () => void) {
    const timer = { due: monotonic + ms, callback }
    timers.push(timer)
    return {
      cancel() {
        timers = timers.filter((other) => other !== timer)
      },
    }
  }
  return {
    now: () => new Date(at),
    monotonic: () => monotonic,
    after,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve()
        after(ms, resolve)
        signal?.addEventListener('abort', () => resolve())
      }),
    seconds: () => (at - START) / 1000,
    restart() {
      advance(BETWEEN_MS)
      at = START
    },
    advance,
  }
}

/** Sets the `now()` of the database to the time of the clock. */
export async function setDatabaseTime(owner: Query, clock: Clock): Promise<void> {
  await owner`select setval('simulated.milliseconds', ${clock.now().getTime()})`
}
