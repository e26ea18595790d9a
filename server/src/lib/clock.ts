/** Real time as an input: nothing outside this file and the drivers asks the system for time or timers. */
export interface Clock {
  now(): Date
  /** Milliseconds that only ever rise; for durations. */
  monotonic(): number
  /** Resolves after `ms`, or at once (never rejects) when the signal aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Calls back after `ms` unless cancelled; does not keep the process alive. */
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

/** What `work` comes to, or undefined when it has not after `ms`: it goes on then, and nobody waits for it. */
export async function atMost<T>(clock: Clock, ms: number, work: Promise<T>): Promise<T | undefined> {
  const over = new AbortController()
  try {
    return await Promise.race([work, clock.sleep(ms, over.signal).then(() => undefined)])
  } finally {
    over.abort()
  }
}
