/**
 * The engine's loop: claim due keys, call their reconciler, give them back.
 *
 * It knows no resource. A reconciler gets a name and the environment's time, re-reads everything, does at most one
 * step and says when to look again. The loop sleeps until it is told of a wake (NOTIFY, or a driver's hint in this
 * process) and looks once a second anyway, so a lost notification costs a second and never a change.
 */
import type { Sql } from '../db/database.ts'
import { atMost, type Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { type Claim, claim, fail, finish, renewLeases, WORK_CHANNEL } from './work.ts'

/** Looks at one key. Answers when to look again: seconds of environment time, or null for never. */
export type Reconcile = (claimed: Claim) => Promise<{ after_seconds: number | null }>
export type Reconcilers = Record<string, Reconcile>

/** What came of one look. */
export type StepResult = { after_seconds: number | null } | { error: string }

/** One step: calls the key's reconciler and gives the key back, whichever way it went. Never rejects. */
export async function step(sql: Sql, reconcilers: Reconcilers, claimed: Claim): Promise<StepResult> {
  try {
    const { after_seconds } = await reconcilers[claimed.kind]!(claimed)
    await finish(sql, claimed, after_seconds)
    return { after_seconds }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    // The database may be the very thing that failed: then the lease runs out and the key comes back by itself.
    await fail(sql, claimed, message).catch(() => {})
    return { error: message }
  }
}

/** Is told what the engine does, for counting. */
export type EngineObserver = {
  claimed(kind: string): void
  stepped(kind: string, milliseconds: number, failed: boolean): void
}

export type EngineOptions = {
  sql: Sql
  clock: Clock
  log: Log
  /** Name of this worker in `leased_by`; unique per process. */
  worker: string
  reconcilers: Reconcilers
  /** Steps that run at the same time. */
  concurrency?: number
  /** Real milliseconds between two looks when nobody calls. */
  poll_ms?: number
  observer?: EngineObserver
}

export type Engine = {
  start(): Promise<void>
  /** Looks now; for hints from drivers and for writers in this process. */
  nudge(): void
  /** Takes no new key and waits for running steps, at most `deadlineMs`; leases of the rest run out by themselves. */
  stop(deadlineMs: number): Promise<void>
  /** Null, or why the engine cannot work, for `/readyz`. */
  problem(): string | null
}

const RENEW_MS = 5_000

export function createEngine(options: EngineOptions): Engine {
  const { sql, clock, log, worker, reconcilers, observer } = options
  const concurrency = options.concurrency ?? 16
  const pollMs = options.poll_ms ?? 1_000
  const kinds = Object.keys(reconcilers)
  const running = new Map<Claim, Promise<void>>()
  let wanted = false
  let stopping = false
  let looking: Promise<void> | null = null
  let problem: string | null = 'engine has not started'
  let alarm: { cancel(): void } | null = null
  let renewal: { cancel(): void } | null = null
  let listener: { unlisten(): Promise<void> } | null = null

  async function run(claimed: Claim): Promise<void> {
    const begin = clock.monotonic()
    const looked = await step(sql, reconcilers, claimed)
    running.delete(claimed)
    const failed = 'error' in looked
    if (failed) {
      const { kind, id, attempts } = claimed
      log.warn({ kind, id, attempts: attempts + 1, error: looked.error }, 'step failed')
    } else if (looked.after_seconds !== null && looked.after_seconds * 1000 < pollMs) {
      // Where the look is due before the next poll, somebody has to remember it.
      clock.after(looked.after_seconds * 1000 + 1, nudge)
    }
    observer?.stepped(claimed.kind, clock.monotonic() - begin, failed)
    nudge()
  }

  async function look(): Promise<void> {
    while (wanted && !stopping) {
      wanted = false
      const room = concurrency - running.size
      if (room <= 0) return
      try {
        const claims = await claim(sql, worker, kinds, room)
        problem = null
        for (const claimed of claims) {
          observer?.claimed(claimed.kind)
          running.set(claimed, run(claimed))
        }
        if (claims.length === room) return
      } catch (error) {
        problem = 'the database does not answer the engine'
        log.warn({ error: error instanceof Error ? error.message : String(error) }, 'cannot claim work')
        return
      }
    }
  }

  function nudge(): void {
    wanted = true
    if (looking || stopping) return
    looking = look().finally(() => {
      looking = null
      if (wanted && running.size < concurrency && problem === null) nudge()
    })
  }

  function poll(): void {
    alarm = clock.after(pollMs, () => {
      nudge()
      if (!stopping) poll()
    })
  }

  function scheduleRenewal(): void {
    renewal = clock.after(RENEW_MS, () => {
      void renewLeases(sql, worker, [...running.keys()]).catch(() => {})
      scheduleRenewal()
    })
  }

  return {
    async start() {
      stopping = false
      listener = await sql.listen(WORK_CHANNEL, nudge, nudge)
      poll()
      scheduleRenewal()
      nudge()
    },
    nudge,
    async stop(deadlineMs) {
      stopping = true
      alarm?.cancel()
      await listener?.unlisten().catch(() => {})
      await atMost(clock, deadlineMs, Promise.all([looking, ...running.values()]))
      renewal?.cancel()
    },
    problem: () => problem,
  }
}
