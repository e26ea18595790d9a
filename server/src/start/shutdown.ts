/**
 * Shutdown: closes everything that was opened, in reverse order, in ten seconds at most. Virtual machines keep running.
 *
 * Each step has a limit. The limits fit into the deadline, so every step runs, whatever the earlier ones do. A stop during
 * the start waits for the start first; that time is taken from the steps that run first, never from the last ones, which
 * stop the database.
 *
 * The terminal and npm both forward Ctrl-C; the second signal is ignored.
 */
import { atMost, type Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'

export const DEADLINE_MS = 9_500
/** For a start in progress to end; afterwards its parts are closed in any case. */
const START_MS = 3_000

/** Closes one part. Resolves within `ms` if it can; the next step runs after `ms` in any case. */
export type Close = (ms: number) => Promise<unknown>

export type Steps = {
  /** Adds a step that runs before all steps that were added earlier. Add it before the work that it undoes. */
  add(name: string, limitMs: number, close: Close): void
  /** Runs all steps within `ms`. A step that runs late still leaves the later ones their limits. */
  run(ms: number): Promise<void>
}

export type Shutdown = Pick<Steps, 'add'> & {
  /** Aborted when the shutdown begins: a start must not continue. */
  signal: AbortSignal
  /** Runs the start. A shutdown waits for it before it closes what the start has opened. */
  start<T>(work: () => Promise<T>): Promise<T>
  /** Runs all steps and exits. */
  stop(exitCode: number): Promise<void>
}

type Step = { name: string; limitMs: number; close: Close }

export function createSteps(clock: Clock, log: Log): Steps {
  const steps: Step[] = []
  const reserved = () => steps.reduce((sum, { limitMs }) => sum + limitMs, 0)

  async function run({ name, limitMs, close }: Step, left: number): Promise<void> {
    const ms = Math.max(0, Math.min(limitMs, left - reserved()))
    const closing = close(ms).then(
      () => true,
      (error: Error) => {
        log.warn({ part: name, error: error.message }, 'failed to close')
        return true
      },
    )
    if (!(await atMost(clock, ms, closing))) log.warn({ part: name, ms }, 'did not close in time')
  }

  return {
    add(name, limitMs, close) {
      steps.push({ name, limitMs, close })
      if (reserved() > DEADLINE_MS) throw new Error(`the limits of the shutdown steps exceed ${DEADLINE_MS} ms`)
    },
    async run(ms) {
      const end = clock.monotonic() + ms
      for (let step = steps.pop(); step; step = steps.pop()) await run(step, end - clock.monotonic())
    },
  }
}

/** Handles SIGINT, SIGTERM and SIGHUP. */
export function createShutdown(clock: Clock, log: Log, exit = process.exit as (code: number) => void): Shutdown {
  const steps = createSteps(clock, log)
  const aborter = new AbortController()
  let starting: Promise<unknown> = Promise.resolve()

  async function stop(exitCode: number): Promise<void> {
    if (aborter.signal.aborted) return
    const end = clock.monotonic() + DEADLINE_MS
    aborter.abort()
    await atMost(clock, START_MS, starting)
    await steps.run(end - clock.monotonic())
    if (exitCode === 0) log.info({}, 'stopped; virtual machines keep running')
    exit(exitCode)
  }

  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
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
    add: steps.add,
    stop,
  }
}
