/**
 * Shutdown: closes everything that was opened, in reverse order, each part with its own deadline, in ten seconds at most.
 * Virtual machines keep running. The terminal and npm both forward Ctrl-C; the second signal is ignored.
 */
import { atMost, type Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'

const DEADLINE_MS = 9_500
/** For a start in progress to end; afterwards its parts are closed in any case. */
const START_MS = 3_000

export type Shutdown = {
  /** Aborted when the shutdown begins: a start must not continue. */
  signal: AbortSignal
  /** Runs the start. A shutdown waits for it before it closes what the start has opened. */
  start<T>(work: () => Promise<T>): Promise<T>
  /** Adds a step that runs before all steps that were added earlier. */
  add(name: string, close: () => Promise<unknown>): void
  /** Runs all steps and exits. */
  stop(exitCode: number): Promise<void>
}

/** Handles SIGINT and SIGTERM. */
export function createShutdown(clock: Clock, log: Log, exit = process.exit as (code: number) => void): Shutdown {
  const steps: { name: string; close: () => Promise<unknown> }[] = []
  const aborter = new AbortController()
  let starting: Promise<unknown> = Promise.resolve()

  async function stop(exitCode: number): Promise<void> {
    if (aborter.signal.aborted) return
    aborter.abort()
    clock.after(DEADLINE_MS, () => {
      log.warn({}, 'shutdown deadline exceeded; exiting')
      exit(exitCode)
    })
    await atMost(clock, START_MS, starting)
    for (let step = steps.pop(); step; step = steps.pop()) {
      const { name, close } = step
      await close().catch((error: Error) => log.warn({ part: name, error: error.message }, 'failed to close'))
    }
    if (exitCode === 0) log.info({}, 'stopped; virtual machines keep running')
    exit(exitCode)
  }

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (!aborter.signal.aborted) log.info({ signal }, 'stopping')
      void stop(0)
    })
  }
  return {
    signal: aborter.signal,
    start(work) {
      const started = work()
      starting = started.catch(() => {})
      return started
    },
    add: (name, close) => void steps.push({ name, close }),
    stop,
  }
}
