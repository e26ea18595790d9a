/** Time as an input: only this file and the drivers use the system's time and timers. */
export interface Clock {
  now(): Date
  /** Monotonic milliseconds, for durations. */
  monotonic(): number
  /** Resolves after `ms`, or immediately when the signal aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Calls `callback` after `ms` unless cancelled; does not keep the process alive. */
  after(ms: number, callback: () => void): { cancel(): void }
}

/** The system's clock. */
export const systemClock: Clock = {
  now: () => new Date(),
  monotonic: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) return resolve()
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      signal?.addEventListener('abort', done)
    }),
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms)
    timer.unref()
    return { cancel: () => clearTimeout(timer) }
  },
}

/** The result of `work`, or undefined after a timeout of `ms`; `work` is not cancelled. */
export async function atMost<T>(clock: Clock, ms: number, work: Promise<T>): Promise<T | undefined> {
  const over = new AbortController()
  try {
    return await Promise.race([work, clock.sleep(ms, over.signal).then(() => undefined)])
  } finally {
    over.abort()
  }
}
