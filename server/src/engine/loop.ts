/**
 * The engine's loop: claims due keys, calls their reconcilers, releases the claims.
 *
 * It depends on no resource type. A reconcile pass gets a work key and the environment's time, reads all state again,
 * does at most one step, and returns when to requeue the key. The loop waits for a wake signal (NOTIFY, or a driver's
 * hint in this process) or for the poll interval of one second, so a lost signal delays a pass but never loses it.
 */
import type { Sql } from '../db/database.ts'
import { atMost, type Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { type Claim, claim, fail, finish, releaseClaims, renewLeases, WORK_CHANNEL } from './work.ts'

/** One reconcile pass on a claimed key. Returns when to requeue it, in seconds of environment time; null deletes the key. */
export type Reconcile = (claimed: Claim) => Promise<{ after_seconds: number | null }>
export type Reconcilers = Record<string, Reconcile>

/** The result of one pass. */
export type StepResult = { after_seconds: number | null } | { error: string }

/** Runs one pass and releases the claim, whether the pass succeeded or failed. Never rejects. */
export async function step(sql: Sql, reconcilers: Reconcilers, claimed: Claim): Promise<StepResult> {
  try {
    const { after_seconds } = await reconcilers[claimed.kind]!(claimed)
    await finish(sql, claimed, after_seconds)
    return { after_seconds }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    // If the database itself failed, the lease expires and the key becomes claimable again.
    await fail(sql, claimed, message).catch(() => {})
    return { error: message }
  }
}

/** Receives the engine's claims and passes, for metrics. */
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
  /** Worker slots: passes that run at the same time. */
  concurrency?: number
  /** Poll interval in real milliseconds, without a wake signal. */
  poll_ms?: number
  observer?: EngineObserver
}

export type Engine = {
  start(): Promise<void>
  /** Claims due keys now; called after a driver's hint or a write in this process. */
  nudge(): void
  /** Claims no more keys, and waits at most `deadlineMs` for running passes. A lease that is left expires. */
  stop(deadlineMs: number): Promise<void>
  /** Why the engine cannot claim keys, for `/readyz`; null when it can. */
  problem(): string | null
}

const RENEW_MS = 5_000

export function createEngine(options: EngineOptions): Engine {
  const { sql, clock, log, worker, reconcilers, observer } = options
  const concurrency = options.concurrency ?? 16
  const pollMs = options.poll_ms ?? 1_000
  const kinds = Object.keys(reconcilers)
  const running = new Map<Claim, Promise<void>>()
  let claimRequested = false
  let stopping = false
  let claiming: Promise<void> | null = null
  let problem: string | null = 'engine has not started'
  let pollTimer: { cancel(): void } | null = null
  let renewalTimer: { cancel(): void } | null = null
  let listener: { unlisten(): Promise<void> } | null = null

  async function run(claimed: Claim): Promise<void> {
    const begin = clock.monotonic()
    const result = await step(sql, reconcilers, claimed)
    running.delete(claimed)
    const failed = 'error' in result
    if (failed) {
      const { kind, id, attempts } = claimed
      log.warn({ kind, id, attempts: attempts + 1, error: result.error }, 'step failed')
    } else if (result.after_seconds !== null && result.after_seconds * 1000 < pollMs) {
      // The key is due before the next poll.
      clock.after(result.after_seconds * 1000 + 1, nudge)
    }
    observer?.stepped(claimed.kind, clock.monotonic() - begin, failed)
    nudge()
  }

  async function claimDue(): Promise<void> {
    while (claimRequested && !stopping) {
      claimRequested = false
      const freeSlots = concurrency - running.size
      if (freeSlots <= 0) return
      try {
        const claims = await claim(sql, worker, kinds, freeSlots)
        problem = null
        if (stopping) return await releaseClaims(sql, claims)
        for (const claimed of claims) {
          observer?.claimed(claimed.kind)
          running.set(claimed, run(claimed))
        }
        if (claims.length === freeSlots) return
      } catch (error) {
        problem = 'the engine cannot claim work from the database'
        log.warn({ error: error instanceof Error ? error.message : String(error) }, 'cannot claim work')
        return
      }
    }
  }

  function nudge(): void {
    claimRequested = true
    if (claiming || stopping) return
    claiming = claimDue().finally(() => {
      claiming = null
      if (claimRequested && running.size < concurrency && problem === null) nudge()
    })
  }

  function schedulePoll(): void {
    pollTimer = clock.after(pollMs, () => {
      nudge()
      if (!stopping) schedulePoll()
    })
  }

  function scheduleRenewal(): void {
    renewalTimer = clock.after(RENEW_MS, () => {
      void renewLeases(sql, worker, [...running.keys()]).catch(() => {})
      scheduleRenewal()
    })
  }

  return {
    async start() {
      stopping = false
      listener = await sql.listen(WORK_CHANNEL, nudge, nudge)
      schedulePoll()
      scheduleRenewal()
      nudge()
    },
    nudge,
    async stop(deadlineMs) {
      stopping = true
      pollTimer?.cancel()
      await listener?.unlisten().catch(() => {})
      await atMost(clock, deadlineMs, Promise.all([claiming, ...running.values()]))
      renewalTimer?.cancel()
    },
    problem: () => problem,
  }
}
