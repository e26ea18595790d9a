import type { Clock } from '../lib/clock.ts'

/** Time passes only when the test advances it. */
export type ManualClock = Clock & { advance(ms: number): void }

/** Starts at the given real time; callbacks run when time reaches them. */
export function createManualClock(startMs = 1_750_000_000_000): ManualClock {
  let now = 0
  const timers = new Set<{ at: number; callback: () => void }>()
  return {
    now: () => new Date(startMs + now),
    monotonic: () => now,
    sleep: (ms) => new Promise((resolve) => void timers.add({ at: now + ms, callback: resolve })),
    after(ms, callback) {
      const timer = { at: now + ms, callback }
      timers.add(timer)
      return { cancel: () => void timers.delete(timer) }
    },
    advance(ms) {
      const until = now + ms
      for (;;) {
        const next = [...timers].filter(({ at }) => at <= until).sort((a, b) => a.at - b.at)[0]
        if (!next) break
        timers.delete(next)
        now = Math.max(now, next.at)
        next.callback()
      }
      now = until
    },
  }
}
