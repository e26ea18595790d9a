/**
 * The way down. What was opened is closed in reverse order, each with its own deadline, all of it within ten seconds;
 * virtual machines are not among it. A Ctrl-C reaches us from the terminal and again through npm: one is enough.
 */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'

const DEADLINE_MS = 9_500

export type Shutdown = {
  /** To be done on the way down, before everything that was added earlier. */
  add(name: string, close: () => Promise<unknown>): void
  /** Closes everything and ends the process. */
  stop(exitCode: number): Promise<void>
}

/** Takes over SIGINT and SIGTERM. */
export function createShutdown(clock: Clock, log: Log, exit = process.exit as (code: number) => void): Shutdown {
  const steps: { name: string; close: () => Promise<unknown> }[] = []
  let stopping = false

  async function stop(exitCode: number): Promise<void> {
    if (stopping) return
    stopping = true
    clock.after(DEADLINE_MS, () => {
      log.warn({}, 'stopping takes too long; leaving')
      exit(exitCode)
    })
    for (const { name, close } of steps.reverse()) {
      await close().catch((error: Error) => log.warn({ part: name, error: error.message }, 'cannot be closed'))
    }
    if (exitCode === 0) log.info({}, 'stopped; virtual machines run on')
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
