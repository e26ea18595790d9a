/**
 * Decides requests against shared buckets (see gcra.ts). A request whose buckets all have a borrowed token is decided
 * immediately, without a promise. Other requests wait for one exchange of all their buckets; requests that arrive
 * meanwhile wait for the next one. A rejection is cached until its bucket has a token again, so that further requests
 * cost no statement.
 *
 * While the database is unavailable, this process limits reads and writes alone, and rejects creates, because uncounted
 * machines would remain.
 */
import type { Clock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { type Bucket, beginExchange, canSpend, completeExchange, remaining, spend, unspend } from './bucket.ts'
import { decide, type ExchangeResult } from './gcra.ts'
import type { BucketExchange, BucketStore } from './store.ts'

/** Null: the request is allowed. */
export type Verdict = null | { reason: 'rate' | 'unavailable'; violated: Bucket[]; wait_seconds: number }

type Waiter = { missing: Bucket[]; reserved: Bucket[]; resolve: (verdict: Verdict) => void }

/** One statement: the buckets, their exchanges, and the requests that wait for it. */
type Batch = { sent: number; buckets: Bucket[]; exchanges: BucketExchange[]; waiters: Waiter[]; isLate: boolean }

/** A statement that takes longer counts as unanswered. */
const DEADLINE_MS = 1_000
/** How long no statement is sent after the database was unavailable. */
const RETRY_DELAY_MS = 1_000
const MAX_WAITING = 10_000
const MAX_BUCKETS = 1_000
/** Delay after the end of a loan, so that several loans are returned together. */
const RETURN_DELAY_MS = 50
const CLEAN_INTERVAL_MS = 600_000

export type LimiterOptions = { store: BucketStore; clock: Clock; log: Log }

export class Limiter {
  readonly #store: BucketStore
  readonly #clock: Clock
  readonly #log: Log
  /** Buckets of the next exchange, with or without a waiting request. */
  readonly #due = new Set<Bucket>()
  /** Buckets with a loan, or with tokens to return. */
  readonly #lending = new Set<Bucket>()
  #waiting: Waiter[] = []
  #isExchanging = false
  #unavailableUntil = -Infinity
  #timer: { cancel(): void } | null = null
  #isClosed = false
  #cleanAt: number

  constructor({ store, clock, log }: LimiterOptions) {
    this.#store = store
    this.#clock = clock
    this.#log = log
    this.#cleanAt = clock.monotonic() + CLEAN_INTERVAL_MS
  }

  /** Takes one token of each bucket, or of none. */
  take(buckets: readonly Bucket[]): Verdict | Promise<Verdict> {
    const now = this.#clock.monotonic()
    let isRefused = false
    let isMissing = false
    for (const bucket of buckets) {
      if (bucket.refused_until > now) isRefused = true
      else if (!canSpend(bucket, now)) isMissing = true
    }
    if (isRefused) return this.#refusal(buckets.filter((bucket) => bucket.refused_until > now))
    if (!isMissing) {
      for (const bucket of buckets) spend(bucket)
      return null
    }
    if (this.#unavailableUntil > now) return this.#takeLocally(buckets)
    return this.#wait(buckets)
  }

  /** Reads the current state of the buckets from the database. */
  async refresh(buckets: readonly Bucket[]): Promise<void> {
    if (this.#unavailableUntil > this.#clock.monotonic()) return
    for (const bucket of buckets) this.#due.add(bucket)
    await this.#wait([])
  }

  /** Refunds the token of a request that does not count. */
  refund(bucket: Bucket): void {
    unspend(bucket, this.#clock.monotonic())
    if (bucket.returned > 0) this.#lending.add(bucket)
    this.#scheduleReturn()
  }

  /** The remaining tokens of each bucket. */
  remaining(buckets: readonly Bucket[]): number[] {
    const now = this.#clock.monotonic()
    return buckets.map((bucket) => remaining(bucket, now))
  }

  /** Returns all borrowed tokens, so that a restart costs the clients nothing. */
  async close(): Promise<void> {
    for (const bucket of this.#lending) this.#due.add(bucket)
    this.#lending.clear()
    if (this.#due.size > 0 && this.#unavailableUntil <= this.#clock.monotonic()) await this.#wait([])
    this.#isClosed = true
    this.#timer?.cancel()
    this.#timer = null
  }

  #wait(buckets: readonly Bucket[]): Verdict | Promise<Verdict> {
    const now = this.#clock.monotonic()
    if (this.#waiting.length >= MAX_WAITING) return { reason: 'unavailable', violated: [...buckets], wait_seconds: 1 }
    const reserved = buckets.filter((bucket) => canSpend(bucket, now))
    const missing = buckets.filter((bucket) => !reserved.includes(bucket))
    for (const bucket of reserved) spend(bucket)
    for (const bucket of missing) {
      bucket.need++
      this.#due.add(bucket)
    }
    const verdict = new Promise<Verdict>((resolve) => this.#waiting.push({ missing, reserved, resolve }))
    this.#exchange()
    return verdict
  }

  /** Runs one statement at a time; requests that arrive meanwhile are part of the next. */
  #exchange(): void {
    if (this.#isExchanging || this.#due.size === 0) return
    this.#isExchanging = true
    const batch = this.#nextBatch()
    const deadline = this.#clock.after(DEADLINE_MS, () => {
      batch.isLate = true
      this.#onUnavailable(batch.waiters, 'the statement exceeded its deadline')
    })
    this.#store
      .exchange(batch.exchanges)
      .then(
        (results) => this.#onResults(batch, results),
        (error: Error) => {
          // No error of the database may fail a request, but an error that is no outage is a bug.
          if (!(error instanceof DatabaseUnavailableError)) {
            this.#log.error({ error: error.stack }, 'rate limits: unexpected error')
          }
          if (!batch.isLate) this.#onUnavailable(batch.waiters, error.message)
        },
      )
      .finally(() => {
        deadline.cancel()
        this.#isExchanging = false
        this.#exchange()
        this.#scheduleReturn()
      })
  }

  #nextBatch(): Batch {
    const sent = this.#clock.monotonic()
    // All buckets of a request are in the same batch: only buckets that merely return tokens can be deferred.
    const buckets = [...this.#due].filter((bucket, i) => i < MAX_BUCKETS || bucket.need > 0)
    for (const bucket of buckets) this.#due.delete(bucket)
    const exchanges = buckets.map((bucket): BucketExchange => {
      this.#lending.delete(bucket)
      const { id, environment_id, policy } = bucket
      return { bucket: id, environment_id, policy, request: beginExchange(bucket, sent) }
    })
    const waiters = this.#waiting
    this.#waiting = []
    return { sent, buckets, exchanges, waiters, isLate: false }
  }

  #onResults({ sent, buckets, exchanges, waiters, isLate }: Batch, results: ExchangeResult[]): void {
    const now = this.#clock.monotonic()
    results.forEach((result, i) => {
      completeExchange(buckets[i]!, exchanges[i]!.request, result, sent, now)
    })
    if (!isLate) for (const waiter of waiters) waiter.resolve(this.#serve(waiter))
    for (const bucket of buckets) this.#keep(bucket)
    this.#serveWaiting()
  }

  #serve({ missing, reserved }: Waiter): Verdict {
    if (missing.every((bucket) => bucket.sold > 0)) {
      for (const bucket of missing) bucket.sold--
      return null
    }
    const now = this.#clock.monotonic()
    for (const bucket of reserved) unspend(bucket, now)
    return this.#refusal(missing.filter((bucket) => bucket.sold === 0))
  }

  /** Requests that arrived during the statement take borrowed tokens, which the next exchange would only return. */
  #serveWaiting(): void {
    const now = this.#clock.monotonic()
    this.#waiting = this.#waiting.filter(({ missing, resolve }) => {
      if (missing.length === 0 || !missing.every((bucket) => canSpend(bucket, now))) return true
      for (const bucket of missing) {
        spend(bucket)
        bucket.need--
        if (bucket.need === 0) this.#due.delete(bucket)
      }
      resolve(null)
      return false
    })
  }

  /** Marks sold tokens that no request took for return, and tracks the loan. */
  #keep(bucket: Bucket): void {
    bucket.returned += bucket.sold
    bucket.sold = 0
    if (bucket.lease || bucket.returned > 0) this.#lending.add(bucket)
  }

  #refusal(violated: Bucket[]): Verdict {
    const until = Math.max(...violated.map((bucket) => bucket.refused_until))
    return { reason: 'rate', violated, wait_seconds: (until - this.#clock.monotonic()) / 1_000 }
  }

  #onUnavailable(waiters: Waiter[], reason: string): void {
    const now = this.#clock.monotonic()
    if (this.#unavailableUntil <= now) this.#log.warn({ reason }, 'rate limits: the database is unavailable')
    this.#unavailableUntil = now + RETRY_DELAY_MS
    for (const { missing, reserved, resolve } of [...waiters.splice(0), ...this.#waiting.splice(0)]) {
      for (const bucket of missing) {
        bucket.need = 0
        this.#due.delete(bucket)
      }
      const verdict = this.#takeLocally(missing)
      if (verdict) for (const bucket of reserved) unspend(bucket, this.#clock.monotonic())
      resolve(verdict)
    }
  }

  #takeLocally(buckets: readonly Bucket[]): Verdict {
    const strict = buckets.filter((bucket) => bucket.when_unavailable === 'refuse')
    if (strict.length > 0) return { reason: 'unavailable', violated: strict, wait_seconds: RETRY_DELAY_MS / 1_000 }
    const now = this.#clock.monotonic() / 1_000
    const decisions = buckets.map((bucket) => decide(bucket.policy, bucket.local_tat, now))
    const violated = buckets.filter((_, i) => !decisions[i]!.allowed)
    if (violated.length > 0) {
      return { reason: 'rate', violated, wait_seconds: Math.max(...decisions.map((each) => each.wait_seconds)) }
    }
    buckets.forEach((bucket, i) => {
      bucket.local_tat = decisions[i]!.tat
      bucket.available = decisions[i]!.remaining
      bucket.synced_at = now * 1_000
    })
    return null
  }

  /** Schedules the return of unspent tokens after the end of their loans. Without loans there is no timer. */
  #scheduleReturn(): void {
    if (this.#timer || this.#isClosed || this.#lending.size === 0) return
    const now = this.#clock.monotonic()
    let ends = Infinity
    for (const bucket of this.#lending) ends = Math.min(ends, bucket.lease ? bucket.lease_until : now)
    this.#timer = this.#clock.after(Math.max(0, ends - now) + RETURN_DELAY_MS, () => {
      this.#timer = null
      this.#returnTokens()
      this.#scheduleReturn()
    })
  }

  #returnTokens(): void {
    const now = this.#clock.monotonic()
    for (const bucket of this.#lending) {
      if (bucket.lease && bucket.lease_until > now) continue
      this.#lending.delete(bucket)
      this.#due.add(bucket)
    }
    if (this.#unavailableUntil <= now) this.#exchange()
    if (now < this.#cleanAt) return
    this.#cleanAt = now + CLEAN_INTERVAL_MS
    this.#store.removeIdle().catch((error: Error) => {
      this.#log.warn({ error: error.message }, 'rate limits: cannot delete idle buckets')
    })
  }
}
