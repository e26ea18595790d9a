/**
 * Decides requests against shared buckets (see gcra.ts). A request whose buckets all have a lent token is decided at once,
 * without a promise. The others wait for one statement that asks for all of them together; while it is under way, those
 * that come gather for the next. A refusal is remembered until its bucket has a token again, so that hammering costs
 * nothing.
 *
 * Without the database, reads and writes pass by a limit of this process alone; creates are refused, because machines that
 * nobody counted stay.
 */
import type { Clock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { type Bucket, beginExchange, canSpend, remaining, settled, spend, unspend } from './bucket.ts'
import { decide } from './gcra.ts'
import type { BucketAsk, BucketStore } from './store.ts'

/** Null: go ahead. */
export type Verdict = null | { reason: 'rate' | 'unsure'; violated: Bucket[]; wait_seconds: number }

type Waiter = { missing: Bucket[]; reserved: Bucket[]; resolve: (verdict: Verdict) => void }

/** A statement that takes longer counts as no answer. */
const DEADLINE_MS = 1_000
/** How long the database is left alone after it did not answer. */
const AWAY_MS = 1_000
const MAX_WAITING = 10_000
const MAX_BUCKETS = 1_000
/** After a loan has ended, so that a few end together. */
const RETURN_DELAY_MS = 50
const CLEAN_MS = 600_000

export type Limiter = ReturnType<typeof createLimiter>

export function createLimiter({ store, clock, log }: { store: BucketStore; clock: Clock; log: Log }) {
  /** Buckets for the next statement, with or without a request that waits. */
  const due = new Set<Bucket>()
  const lending = new Set<Bucket>()
  let waiting: Waiter[] = []
  let isAsking = false
  let awayUntil = -Infinity
  let timer: { cancel(): void } | null = null
  let isClosed = false
  let cleanAt = clock.monotonic() + CLEAN_MS

  /** Takes one token of each bucket, or of none. */
  function take(buckets: readonly Bucket[]): Verdict | Promise<Verdict> {
    const now = clock.monotonic()
    let refused = false
    let missing = false
    for (const bucket of buckets) {
      if (bucket.refused_until > now) refused = true
      else if (!canSpend(bucket, now)) missing = true
    }
    if (refused) return refusal(buckets.filter((bucket) => bucket.refused_until > now))
    if (!missing) {
      for (const bucket of buckets) spend(bucket)
      return null
    }
    if (awayUntil > now) return takeAlone(buckets)
    return wait(buckets)
  }

  /** Brings what is known of the buckets up to date. */
  async function look(buckets: readonly Bucket[]): Promise<void> {
    if (awayUntil > clock.monotonic()) return
    for (const bucket of buckets) due.add(bucket)
    await wait([])
  }

  function wait(buckets: readonly Bucket[]): Verdict | Promise<Verdict> {
    const now = clock.monotonic()
    if (waiting.length >= MAX_WAITING) return { reason: 'unsure', violated: [...buckets], wait_seconds: 1 }
    const reserved = buckets.filter((bucket) => canSpend(bucket, now))
    const missing = buckets.filter((bucket) => !reserved.includes(bucket))
    for (const bucket of reserved) spend(bucket)
    for (const bucket of missing) {
      bucket.need++
      due.add(bucket)
    }
    const verdict = new Promise<Verdict>((resolve) => waiting.push({ missing, reserved, resolve }))
    ask()
    return verdict
  }

  /** One statement at a time; what gathers meanwhile goes with the next. */
  function ask(): void {
    if (isAsking || due.size === 0) return
    isAsking = true
    const sent = clock.monotonic()
    const buckets = [...due]
    // A request's buckets stay together: only what merely returns tokens can wait for another turn.
    const asked = buckets.filter((bucket, i) => i < MAX_BUCKETS || bucket.need > 0)
    for (const bucket of asked) due.delete(bucket)
    const asks = asked.map((bucket): BucketAsk => {
      lending.delete(bucket)
      const { id, environment_id, policy } = bucket
      return { bucket: id, environment_id, policy, ask: beginExchange(bucket, sent) }
    })
    const waiters = waiting
    waiting = []
    let isLate = false
    const deadline = clock.after(DEADLINE_MS, () => {
      isLate = true
      away(waiters, 'it does not answer in time')
    })
    store
      .exchange(asks)
      .then(
        (sales) => {
          const now = clock.monotonic()
          sales.forEach((sale, i) => {
            settled(asked[i]!, asks[i]!.ask, sale, sent, now)
          })
          if (!isLate) for (const waiter of waiters) waiter.resolve(serve(waiter))
          for (const bucket of asked) keep(bucket)
          serveGathered()
        },
        (error: Error) => {
          // Whatever it is, requests must not fail for it; but what is no outage is a bug of ours.
          if (!(error instanceof DatabaseUnavailableError)) log.error({ error: error.stack }, 'rate limits: a bug')
          if (!isLate) away(waiters, error.message)
        },
      )
      .finally(() => {
        deadline.cancel()
        isAsking = false
        ask()
        plan()
      })
  }

  function serve({ missing, reserved }: Waiter): Verdict {
    if (missing.every((bucket) => bucket.sold > 0)) {
      for (const bucket of missing) bucket.sold--
      return null
    }
    const now = clock.monotonic()
    for (const bucket of reserved) unspend(bucket, now)
    return refusal(missing.filter((bucket) => bucket.sold === 0))
  }

  /** Those who came meanwhile take what was lent just now: a next statement would only give it back. */
  function serveGathered(): void {
    const now = clock.monotonic()
    waiting = waiting.filter(({ missing, resolve }) => {
      if (missing.length === 0 || !missing.every((bucket) => canSpend(bucket, now))) return true
      for (const bucket of missing) {
        spend(bucket)
        bucket.need--
        if (bucket.need === 0) due.delete(bucket)
      }
      resolve(null)
      return false
    })
  }

  /** After the answers: what was sold to nobody goes back, what was lent is watched. */
  function keep(bucket: Bucket): void {
    bucket.returned += bucket.sold
    bucket.sold = 0
    if (bucket.lease || bucket.returned > 0) lending.add(bucket)
  }

  function refusal(violated: Bucket[]): Verdict {
    const until = Math.max(...violated.map((bucket) => bucket.refused_until))
    return { reason: 'rate', violated, wait_seconds: (until - clock.monotonic()) / 1_000 }
  }

  function away(waiters: Waiter[], reason: string): void {
    if (awayUntil <= clock.monotonic()) log.warn({ reason }, 'rate limits: the database is away')
    awayUntil = clock.monotonic() + AWAY_MS
    for (const { missing, reserved, resolve } of [...waiters.splice(0), ...waiting.splice(0)]) {
      for (const bucket of missing) {
        bucket.need = 0
        due.delete(bucket)
      }
      const verdict = takeAlone(missing)
      if (verdict) for (const bucket of reserved) unspend(bucket, clock.monotonic())
      resolve(verdict)
    }
  }

  function takeAlone(buckets: readonly Bucket[]): Verdict {
    const strict = buckets.filter((bucket) => bucket.when_unsure === 'refuse')
    if (strict.length > 0) return { reason: 'unsure', violated: strict, wait_seconds: AWAY_MS / 1_000 }
    const now = clock.monotonic() / 1_000
    const decisions = buckets.map((bucket) => decide(bucket.policy, bucket.alone_tat, now))
    const violated = buckets.filter((_, i) => !decisions[i]!.allowed)
    if (violated.length > 0) {
      return { reason: 'rate', violated, wait_seconds: Math.max(...decisions.map((each) => each.wait_seconds)) }
    }
    buckets.forEach((bucket, i) => {
      bucket.alone_tat = decisions[i]!.tat
      bucket.available = decisions[i]!.remaining
      bucket.heard_at = now * 1_000
    })
    return null
  }

  /** Gives back a token of a request that turned out not to cost it. */
  function refund(bucket: Bucket): void {
    unspend(bucket, clock.monotonic())
    if (bucket.returned > 0) lending.add(bucket)
    plan()
  }

  /** Sees to it that what is left of loans goes back soon after their end. Nothing lent: no timer. */
  function plan(): void {
    if (timer || isClosed || lending.size === 0) return
    const now = clock.monotonic()
    let ends = Infinity
    for (const bucket of lending) ends = Math.min(ends, bucket.lease ? bucket.lease_until : now)
    timer = clock.after(Math.max(0, ends - now) + RETURN_DELAY_MS, () => {
      timer = null
      giveBack()
      plan()
    })
  }

  function giveBack(): void {
    const now = clock.monotonic()
    for (const bucket of lending) {
      if (bucket.lease && bucket.lease_until > now) continue
      lending.delete(bucket)
      due.add(bucket)
    }
    if (awayUntil <= now) ask()
    if (now < cleanAt) return
    cleanAt = now + CLEAN_MS
    store.removeIdle().catch((error: Error) => log.warn({ error: error.message }, 'rate limits: idle buckets stay'))
  }

  function stopTimer(): void {
    timer?.cancel()
    timer = null
  }

  return {
    take,
    look,
    refund,
    /** What is left in each of them. */
    remaining(buckets: readonly Bucket[]): number[] {
      const now = clock.monotonic()
      return buckets.map((bucket) => remaining(bucket, now))
    },
    /** Returns all that is lent, so that a restart costs the clients nothing. */
    async close(): Promise<void> {
      for (const bucket of lending) due.add(bucket)
      lending.clear()
      if (due.size > 0 && awayUntil <= clock.monotonic()) await wait([])
      isClosed = true
      stopTimer()
    },
  }
}
