/** One process's part of a shared bucket: what it may spend without asking, and what it last heard. */
import { type Ask, extraFor, LEASE_MS, type Policy, type Sale, secondsUntilOne } from './gcra.ts'
import { policyText } from './headers.ts'

export type Bucket = {
  readonly id: string
  readonly environment_id: string
  /** As the headers show it. */
  readonly name: string
  readonly policy: Policy
  readonly policy_text: string
  /** Without the database: pass by a limit of this process alone, or refuse. */
  readonly when_unsure: 'pass' | 'refuse'

  /** Lent tokens that may be spent until `lease_until` (monotonic milliseconds). */
  tokens: number
  lease: { slot: number; size: number } | null
  lease_until: number
  /** Tokens to give back at the next exchange. */
  returned: number
  /** Requests that wait for the next exchange. */
  need: number
  /** Tokens sold to waiting requests, within one round of answers. */
  sold: number

  /** Tokens in the shared bucket when it was last heard of. */
  available: number
  heard_at: number
  /** When a request last had to ask. */
  asked_at: number
  /** Tokens spent since `asked_at`, for the size of the next loan. */
  used: number
  /** There is no token before this moment, as the shared bucket said. */
  refused_until: number
  /** For times without the database: arrival time in seconds of the monotonic clock. */
  alone_tat: number
}

export function createBucket(fixed: Pick<Bucket, 'id' | 'environment_id' | 'name' | 'policy' | 'when_unsure'>): Bucket {
  return {
    ...fixed,
    policy_text: policyText(fixed.name, fixed.policy),
    tokens: 0,
    lease: null,
    lease_until: 0,
    returned: 0,
    need: 0,
    sold: 0,
    available: fixed.policy.burst,
    heard_at: 0,
    asked_at: -Infinity,
    used: 0,
    refused_until: 0,
    alone_tat: -Infinity,
  }
}

/** Whether a token can be spent without asking. */
export function canSpend(bucket: Bucket, now: number): boolean {
  return bucket.tokens > 0 && bucket.lease_until > now
}

export function spend(bucket: Bucket): void {
  bucket.tokens--
  bucket.used++
}

/** Puts a token back that was spent: into the loan while it lasts, else to be returned. */
export function unspend(bucket: Bucket, now: number): void {
  bucket.used = Math.max(0, bucket.used - 1)
  if (bucket.lease && bucket.lease_until > now && bucket.tokens < bucket.lease.size) bucket.tokens++
  else bucket.returned++
}

/** Tokens that a client of this process can count on; whole ones, and never more without time passing. */
export function remaining(bucket: Bucket, now: number): number {
  if (bucket.refused_until > now) return 0
  const { available, heard_at, tokens, returned, policy } = bucket
  const refilled = ((now - heard_at) / 1_000) * policy.rate_per_second
  return Math.max(0, Math.min(policy.burst, Math.floor(available + refilled + tokens + returned + 1e-4)))
}

/** Ends the loan and says what to ask for; the next thing to happen must be `settled` or `lost`. */
export function beginExchange(bucket: Bucket, now: number): Ask {
  const { need, lease: ended } = bucket
  const extra = need === 0 ? 0 : extraFor(bucket.used, now - bucket.asked_at)
  const returned = bucket.returned + bucket.tokens
  Object.assign(bucket, { tokens: 0, lease: null, returned: 0, need: 0 })
  if (need > 0) Object.assign(bucket, { used: need, asked_at: now })
  return { need, extra, returned, ended }
}

/** @param sent when the question left, before which nothing can have been lent */
export function settled(bucket: Bucket, ask: Ask, sale: Sale, sent: number, now: number): void {
  bucket.available = sale.available
  bucket.heard_at = sent
  bucket.sold = sale.sold
  if (sale.lent > 0) {
    bucket.tokens = sale.lent
    bucket.lease = { slot: sale.slot, size: sale.lent }
    bucket.lease_until = sent + LEASE_MS
  }
  if (sale.sold < ask.need) {
    bucket.refused_until = now + secondsUntilOne(bucket.policy, sale.available) * 1_000
  }
  bucket.alone_tat = now / 1_000 + (bucket.policy.burst - remaining(bucket, now)) / bucket.policy.rate_per_second
}
