/**
 * The arithmetic of the rate limits.
 *
 * A bucket is one number, the theoretical arrival time `tat` of the Generic Cell Rate Algorithm (ITU-T I.371, Annex A):
 * the moment at which the bucket is full again. At time t it holds `burst - (tat - t) * rate` tokens, and taking one
 * moves `tat` by `1 / rate`.
 *
 * Several processes serve one key, and a request must not cost a statement. So a process can borrow more tokens than it
 * needs: *lent* tokens are spent without a statement for a short time, and the rest is returned. This has two conflicting
 * requirements:
 *
 *   bound     in every window of w seconds at most burst + rate * w requests pass, over all processes. So the tokens in
 *             the bucket and the lent tokens together must never exceed the burst: otherwise a process could hold lent
 *             tokens while the bucket refills, and spend both. Therefore the bucket is refilled only up to burst minus
 *             the lent tokens (`settle`). A lent token is counted for at least one second, and can be spent only for
 *             LEASE_MS.
 *   fairness  a client below the rate is never rejected. So few tokens may be held by processes that the client does not
 *             reach: at most a twentieth of the burst is lent to all processes together, and at most a twentieth of the
 *             available tokens, so that an almost empty bucket sells one token at a time. An idle key borrows nothing.
 *
 * The remaining conflict is bounded: at a rejection, at most H = burst / 20 tokens are unspent in other processes, and
 * refills were suspended for at most H more tokens. So a client whose requests fit a bucket of rate and burst - 2 H - 1
 * is never rejected, whichever process serves each request; and a full bucket allows its whole burst.
 */

/** At most `burst` requests at once, and `rate_per_second` sustained. */
export type Policy = { rate_per_second: number; burst: number }

/** A bucket as stored in the database; times are in seconds of the database's clock. */
export type BucketState = {
  tat: number
  /** Tokens lent in the second `lent_slot`, and in the second before it. */
  lent_slot: number
  lent: number
  lent_before: number
}

/** What a process requests from a bucket. */
export type ExchangeRequest = {
  /** Tokens for requests that wait for the exchange. */
  need: number
  /** Tokens to borrow for later requests. */
  extra: number
  /** Unspent tokens to return. */
  returned: number
  /** The slot and size of a loan that has ended. */
  ended: { slot: number; size: number } | null
}

export type ExchangeResult = {
  sold: number
  lent: number
  slot: number
  /** Tokens left in the bucket; below 1, the next token is available after `(1 - available) / rate` seconds. */
  available: number
}

/** How long lent tokens can be spent, in real time: less than the second for which the bucket counts them. */
export const LEASE_MS = 750

const LENT_SHARE = 20
/** In tokens; larger than the rounding error of current times, far smaller than one token. */
const EPSILON = 1e-4

/** An unused bucket. */
export const FULL: BucketState = { tat: -Infinity, lent_slot: 0, lent: 0, lent_before: 0 }

/** Processes one exchange at `now` (seconds). The SQL function `exchange_rate_limits` does the same. */
export function exchange(
  policy: Policy,
  before: BucketState,
  request: ExchangeRequest,
  now: number,
): [BucketState, ExchangeResult] {
  const { rate_per_second: rate, burst } = policy
  const state = settle(policy, before, now)
  const slot = state.lent_slot
  if (request.ended?.slot === slot) state.lent = Math.max(0, state.lent - request.ended.size)
  if (request.ended?.slot === slot - 1) state.lent_before = Math.max(0, state.lent_before - request.ended.size)
  const held = state.lent + state.lent_before
  state.tat = Math.max(state.tat - request.returned / rate, now + held / rate)

  const available = burst - (state.tat - now) * rate
  const free = Math.floor(available + EPSILON)
  const sold = Math.max(0, Math.min(request.need, free))
  const maximum = Math.min(Math.floor(burst / LENT_SHARE) - held, Math.floor((free - sold) / LENT_SHARE))
  const lent = Math.max(0, Math.min(request.extra, maximum))
  state.tat += (sold + lent) / rate
  state.lent += lent
  return [state, { sold, lent, slot, available: available - sold - lent }]
}

/**
 * Advances the state to `now`. `tat` is never below the value at which bucket and lent tokens are a full burst, and never
 * above that of an empty bucket. A clock that is set back leaves the bucket unchanged; one that is set forward at most
 * fills it.
 */
function settle(policy: Policy, before: BucketState, now: number): BucketState {
  const { rate_per_second: rate, burst } = policy
  const { lent_slot, lent, lent_before } = before
  const slot = Math.floor(now)
  const setBack = slot < lent_slot ? lent_slot - now : 0
  const tat = Math.min(
    Math.max(
      before.tat - setBack,
      Math.min(now, lent_slot + 1) + (lent + lent_before) / rate,
      Math.min(now, lent_slot + 2) + lent / rate,
      now,
    ),
    now + (burst + EPSILON) / rate,
  )
  if (slot === lent_slot) return { tat, lent_slot, lent, lent_before }
  const older = slot === lent_slot + 1 ? lent : slot < lent_slot ? lent + lent_before : 0
  return { tat, lent_slot: slot, lent: 0, lent_before: older }
}

/** A decision that one process makes without the database; pass `tat` to the next decision. */
export type Decision = { allowed: boolean; tat: number; remaining: number; wait_seconds: number }

/** Takes `need` tokens if they are available; a rejection takes none. */
export function decide(policy: Policy, tat: number, now: number, need: 0 | 1 = 1): Decision {
  const [state, result] = exchange(policy, { ...FULL, tat }, { need, extra: 0, returned: 0, ended: null }, now)
  const wait_seconds = secondsUntilOne(policy, result.available)
  const remaining = Math.max(0, Math.floor(result.available + EPSILON))
  return { allowed: result.sold === need, tat: state.tat, remaining, wait_seconds }
}

/** Seconds until a bucket with `available` tokens has one token. */
export function secondsUntilOne(policy: Policy, available: number): number {
  return Math.max(0, (1 - available) / policy.rate_per_second)
}

/**
 * The number of tokens to borrow, after `used` tokens in the `elapsed_ms` since the last exchange: the tokens needed at
 * this rate during the next loan, at most twice those used. Zero for a key with less than one request in that time.
 */
export function extraFor(used: number, elapsed_ms: number): number {
  return Math.min(2 * used, Math.floor((used * LEASE_MS) / Math.max(1, elapsed_ms)))
}
