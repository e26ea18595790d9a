/**
 * Time that stands still until the simulation moves it. The clock of the process and that of the database (`now()`, see
 * database.ts) are moved together, so what is real time elsewhere (leases, back-off, expiry of keys) is simulated, too.
 */
import type { Query } from '../db/database.ts'
import type { Clock } from '../lib/clock.ts'

/** When every history begins. */
const BEGINNING = Date.parse('2030-01-01T00:00:00Z')
/** What passes between two histories in the time that only rises, so that nothing of the last one is still believed. */
const BETWEEN_MS = 3_600_000

export type SimulatedClock = Clock & {
  /** Seconds since the beginning. */
  seconds(): number
  /** Goes back to the beginning; who still waits is called first. */
  restart(): void
  /** Lets time pass and calls who waited for it, in the order of their times. */
  pass(ms: number): void
}

export function createSimulatedClock(): SimulatedClock {
  let at = BEGINNING
  let rising = 0
  let timers: { due: number; callback: () => void }[] = []

  function pass(ms: number): void {
    at += ms
    rising += ms
    const due = timers.filter((timer) => timer.due <= rising).sort((a, b) => a.due - b.due)
    timers = timers.filter((timer) => timer.due > rising)
    for (const { callback } of due) callback()
  }
  function after(ms: number, callback: () => void) {
    const timer = { due: rising + ms, callback }
    timers.push(timer)
    return {
      cancel() {
        timers = timers.filter((other) => other !== timer)
      },
    }
  }
  return {
    now: () => new Date(at),
    monotonic: () => rising,
    after,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve()
        after(ms, resolve)
        signal?.addEventListener('abort', () => resolve())
      }),
    seconds: () => (at - BEGINNING) / 1000,
    restart() {
      pass(BETWEEN_MS)
      at = BEGINNING
    },
    pass,
  }
}

/** Makes the database's `now()` that of the clock. */
export async function tellDatabase(owner: Query, clock: Clock): Promise<void> {
  await owner`select setval('simulated.milliseconds', ${clock.now().getTime()})`
}
