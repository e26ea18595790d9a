/**
 * Shutdown: closes everything that was opened, in reverse order, each part with its own deadline, in ten seconds at most.
 * Virtual machines keep running. The terminal and npm both forward Ctrl-C; the second signal is ignored.
 */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'

const DEADLINE_MS = 9_500

export type Shutdown = {
  /** Adds a step that runs before all steps that were added earlier. */
  add(name: string, close: () => Promise<unknown>): void
  /** Runs all steps and exits. */
  stop(exitCode: number): Promise<void>
}

/** Handles SIGINT and SIGTERM. */
export function createShutdown(clock: Clock, log: Log, exit = process.exit as (code: number) => void): Shutdown {
  const steps: { name: string; close: () => Promise<unknown> }[] = []
  let stopping = false

  async function stop(exitCode: number): Promise<void> {
    if (stopping) return
    stopping = true
    clock.after(DEADLINE_MS, () => {
      log.warn({}, 'shutdown deadline exceeded; exiting')
      exit(exitCode)
    })
    for (const { name, close } of steps.reverse()) {
      await close().catch((error: Error) => log.warn({ part: name, error: error.message }, 'failed to close'))
    }
    if (exitCode === 0) log.info({}, 'stopped; virtual machines keep running')
    exit(exitCode)
  }

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (!stopping) log.info({ signal }, 'stopping')
      void stop(0)
    })
  }
  return { add: (name, close) => steps.push({ name, close }), stop }
}
