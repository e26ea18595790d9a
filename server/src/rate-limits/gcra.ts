/**
 * The arithmetic of the rate limits.
 *
 * A bucket is one number, the theoretical arrival time `tat` of the Generic Cell Rate Algorithm (ITU-T I.371, Annex A):
 * the moment at which the bucket is full again. At time t it holds `burst - (tat - t) * rate` tokens, and taking one
 * moves `tat` by `1 / rate`.
 *
 * Several processes serve one key, and a request must not cost a statement. So a process may take more tokens than it
 * needs now: they are *lent*, spent without asking within a moment, and what is left is given back. Two things are wanted
 * of this, and they pull apart:
 *
 *   bound       in every window of w seconds at most burst + rate * w requests pass, over all processes. For this the
 *               tokens in the bucket and those that are lent must never be more than the burst together: else a process
 *               keeps lent tokens, the bucket fills up, and both are spent at once. Therefore the bucket is refilled
 *               only up to burst less what is lent (`settle`). A lent token is counted for at least one second, and its
 *               holder may spend it for LEASE_MS only.
 *   politeness  a client below the rate is never refused. For this few tokens may lie where the client does not ask:
 *               at most a twentieth of the burst is lent to all processes together, and at most a twentieth of what is
 *               left, so that an almost empty bucket sells one token at a time. A quiet key borrows nothing at all.
 *
 * What remains of the conflict, exactly: when a refusal comes, at most H = burst / 20 tokens lie unspent elsewhere, and
 * refills may have stood still for at most H more tokens. So a client whose requests fit a bucket of rate and
 * burst - 2 H - 1 is never refused, whichever process each of them meets; and a full bucket gives its whole burst.
 */

/** At most `burst` at once, `rate_per_second` in the long run. */
export type Policy = { rate_per_second: number; burst: number }

/** A bucket as the database keeps it; times are seconds of the clock that serves it. */
export type BucketState = {
  tat: number
  /** Tokens lent in the second `lent_slot`, and in the one before it. */
  lent_slot: number
  lent: number
  lent_before: number
}

/** What a process wants of a bucket. */
export type Ask = {
  /** Tokens for requests that wait for the answer. */
  need: number
  /** Tokens for requests that will come. */
  extra: number
  /** Unspent tokens that it gives back. */
  returned: number
  /** A loan that it will spend no more: the slot and size that it was given. */
  ended: { slot: number; size: number } | null
}

export type Sale = {
  sold: number
  lent: number
  slot: number
  /** What is left in the bucket; below 1, the next token comes after `(1 - available) / rate` seconds. */
  available: number
}

/** Real time for which lent tokens may be spent: less than the second for which the bucket counts them. */
export const LEASE_MS = 750

const LENT_SHARE = 20
/** Tokens; larger than the rounding of a time of today, far smaller than what anybody could use. */
const EPSILON = 1e-4

/** A bucket that nobody has used. */
export const FULL: BucketState = { tat: -Infinity, lent_slot: 0, lent: 0, lent_before: 0 }

/** Serves one ask at `now` (seconds). The database does the same in `exchange_rate_limits`. */
export function exchange(policy: Policy, before: BucketState, ask: Ask, now: number): [BucketState, Sale] {
  const { rate_per_second: rate, burst } = policy
  const state = settle(policy, before, now)
  const slot = state.lent_slot
  if (ask.ended?.slot === slot) state.lent = Math.max(0, state.lent - ask.ended.size)
  if (ask.ended?.slot === slot - 1) state.lent_before = Math.max(0, state.lent_before - ask.ended.size)
  const held = state.lent + state.lent_before
  state.tat = Math.max(state.tat - ask.returned / rate, now + held / rate)

  const available = burst - (state.tat - now) * rate
  const free = Math.floor(available + EPSILON)
  const sold = Math.max(0, Math.min(ask.need, free))
  const most = Math.min(Math.floor(burst / LENT_SHARE) - held, Math.floor((free - sold) / LENT_SHARE))
  const lent = Math.max(0, Math.min(ask.extra, most))
  state.tat += (sold + lent) / rate
  state.lent += lent
  return [state, { sold, lent, slot, available: available - sold - lent }]
}

/**
 * Lets time pass until `now`. `tat` never falls behind what makes bucket and lent tokens a full burst, and never runs
 * ahead of an empty bucket. A clock that was set back leaves the bucket as full as it was; one that was set forward fills
 * it at most.
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

/** A decision of a limiter that one process makes alone; keep `tat` for the next one. */
export type Decision = { allowed: boolean; tat: number; remaining: number; wait_seconds: number }

/** Takes `need` tokens (1) if they are there; a refusal costs nothing. */
export function decide(policy: Policy, tat: number, now: number, need: 0 | 1 = 1): Decision {
  const [state, sale] = exchange(policy, { ...FULL, tat }, { need, extra: 0, returned: 0, ended: null }, now)
  const wait_seconds = secondsUntilOne(policy, sale.available)
  const remaining = Math.max(0, Math.floor(sale.available + EPSILON))
  return { allowed: sale.sold === need, tat: state.tat, remaining, wait_seconds }
}

/** Seconds until a bucket with so many tokens has one. */
export function secondsUntilOne(policy: Policy, available: number): number {
  return Math.max(0, (1 - available) / policy.rate_per_second)
}

/**
 * Tokens worth borrowing, after `used` tokens in the `elapsed_ms` since the last ask: what the next loan's time will
 * need at this pace, but no more than twice what was used. None for a key that asks less than once in that time.
 */
export function extraFor(used: number, elapsed_ms: number): number {
  return Math.min(2 * used, Math.floor((used * LEASE_MS) / Math.max(1, elapsed_ms)))
}
