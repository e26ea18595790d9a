/** One process's part of a shared bucket: the tokens it has borrowed, and the last known state of the bucket. */
import { type ExchangeRequest, type ExchangeResult, extraFor, LEASE_MS, type Policy, secondsUntilOne } from './gcra.ts'
import { policyText } from './headers.ts'

export type Bucket = {
  readonly id: string
  readonly environment_id: string
  /** Name in the headers. */
  readonly name: string
  readonly policy: Policy
  readonly policy_text: string
  /** While the database is unavailable: apply the limit within this process, or reject. */
  readonly when_unavailable: 'pass' | 'refuse'

  /** Borrowed tokens that can be spent until `lease_until` (monotonic milliseconds). */
  tokens: number
  lease: { slot: number; size: number } | null
  lease_until: number
  /** Tokens to return in the next exchange. */
  returned: number
  /** Requests that wait for the next exchange. */
  need: number
  /** Tokens sold to waiting requests in the last exchange. */
  sold: number

  /** Tokens in the shared bucket at `synced_at`. */
  available: number
  synced_at: number
  /** When a request last needed an exchange. */
  exchanged_at: number
  /** Tokens spent since `exchanged_at`, which determines the size of the next loan. */
  used: number
  /** The shared bucket has no token before this time. */
  refused_until: number
  /** While the database is unavailable: arrival time in seconds of the monotonic clock. */
  local_tat: number
}

export function createBucket(
  fixed: Pick<Bucket, 'id' | 'environment_id' | 'name' | 'policy' | 'when_unavailable'>,
): Bucket {
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
    synced_at: 0,
    exchanged_at: -Infinity,
    used: 0,
    refused_until: 0,
    local_tat: -Infinity,
  }
}

/** Whether a borrowed token can be spent. */
export function canSpend(bucket: Bucket, now: number): boolean {
  return bucket.tokens > 0 && bucket.lease_until > now
}

export function spend(bucket: Bucket): void {
  bucket.tokens--
  bucket.used++
}

/** Refunds a token: to the loan while it lasts, otherwise in the next exchange. */
export function unspend(bucket: Bucket, now: number): void {
  bucket.used = Math.max(0, bucket.used - 1)
  if (bucket.lease && bucket.lease_until > now && bucket.tokens < bucket.lease.size) bucket.tokens++
  else bucket.returned++
}

/** Whole tokens available to this process; never increases without time passing. */
export function remaining(bucket: Bucket, now: number): number {
  if (bucket.refused_until > now) return 0
  const { available, synced_at, tokens, returned, policy } = bucket
  const refilled = ((now - synced_at) / 1_000) * policy.rate_per_second
  return Math.max(0, Math.min(policy.burst, Math.floor(available + refilled + tokens + returned + 1e-4)))
}

/** Ends the loan and returns the request for the exchange, whose result must be passed to `completeExchange`. */
export function beginExchange(bucket: Bucket, now: number): ExchangeRequest {
  const { need, lease: ended } = bucket
  const extra = need === 0 ? 0 : extraFor(bucket.used, now - bucket.exchanged_at)
  const returned = bucket.returned + bucket.tokens
  Object.assign(bucket, { tokens: 0, lease: null, returned: 0, need: 0 })
  if (need > 0) Object.assign(bucket, { used: need, exchanged_at: now })
  return { need, extra, returned, ended }
}

/** @param sent when the exchange was sent; the loan starts no earlier */
export function completeExchange(
  bucket: Bucket,
  request: ExchangeRequest,
  result: ExchangeResult,
  sent: number,
  now: number,
): void {
  bucket.available = result.available
  bucket.synced_at = sent
  bucket.sold = result.sold
  if (result.lent > 0) {
    bucket.tokens = result.lent
    bucket.lease = { slot: result.slot, size: result.lent }
    bucket.lease_until = sent + LEASE_MS
  }
  if (result.sold < request.need) {
    bucket.refused_until = now + secondsUntilOne(bucket.policy, result.available) * 1_000
  }
  bucket.local_tat = now / 1_000 + (bucket.policy.burst - remaining(bucket, now)) / bucket.policy.rate_per_second
}
