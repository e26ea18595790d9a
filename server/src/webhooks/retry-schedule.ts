/** When a failed delivery is retried, and when an endpoint is disabled. Pure. */
import type { DisabledReason } from './row.ts'

/** Seconds before each attempt, as in the Standard Webhooks specification (1.0.0, "Deliverability and reliability"). */
export const SCHEDULE_SECONDS = [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400] as const

/** The largest random part added to a delay, so that deliveries that failed together are not retried together. */
export const JITTER = 0.2

/** The longest `Retry-After` that is honored. */
export const MAX_RETRY_AFTER_SECONDS = 86_400

/** A webhook is disabled after failures only for this time, */
const DISABLE_AFTER_MS = 5 * 86_400_000
/** if an earlier failure was at least this long after the first one. */
const MIN_FAILURE_SPREAD_MS = 12 * 3_600_000

/** Statuses after which an endpoint receives one request at a time. */
const THROTTLING_STATUSES = [429, 502, 503, 504]
/** The status by which a receiver unsubscribes. */
export const GONE = 410

/**
 * Returns the seconds until the next attempt of a delivery, or null after the last attempt.
 * @param made number of attempts so far, including the one that failed
 * @param retryAfter seconds of the `Retry-After` header, or null
 * @param chance from 0 to 1
 */
export function secondsUntilRetry(made: number, retryAfter: number | null, chance: number): number | null {
  const scheduled = SCHEDULE_SECONDS[made]
  if (scheduled === undefined) return null
  return Math.max(scheduled * (1 + JITTER * chance), Math.min(retryAfter ?? 0, MAX_RETRY_AFTER_SECONDS))
}

/** `Retry-After` (RFC 9110, 10.2.3) as seconds from now: a number of seconds or a date; null for anything else. */
export function retryAfterSeconds(header: string | undefined, now: Date): number | null {
  const text = header?.trim() ?? ''
  if (/^\d{1,10}$/.test(text)) return Number(text)
  if (!/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/.test(text)) return null
  const time = Date.parse(text)
  return Number.isNaN(time) ? null : Math.max(0, (time - now.getTime()) / 1000)
}

/** The health of an endpoint, in the environment's time. */
export type Health = { failing_since: Date | null; failed_at: Date | null; throttled: boolean }

/** The health of an endpoint after an attempt; `disable` is the reason to disable it, or null. */
export function healthAfter(
  health: Health,
  { succeeded, status }: { succeeded: boolean; status: number | null },
  now: Date,
): Health & { disable: DisabledReason | null } {
  if (succeeded) return { failing_since: null, failed_at: null, throttled: false, disable: null }
  const since = health.failing_since ?? now
  const before = health.failed_at ?? since
  const isOver =
    now.getTime() - since.getTime() >= DISABLE_AFTER_MS && before.getTime() - since.getTime() >= MIN_FAILURE_SPREAD_MS
  return {
    failing_since: since,
    failed_at: now,
    throttled: health.throttled || (status !== null && THROTTLING_STATUSES.includes(status)),
    disable: status === GONE ? 'gone' : isOver ? 'failing' : null,
  }
}
