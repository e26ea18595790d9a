/** When an attempt is made again, and when an endpoint is given up. Pure. */
import type { DisabledReason } from './row.ts'

/** Seconds before each attempt, as the Standard Webhooks specification lists them (1.0.0, "Deliverability and reliability"). */
export const SCHEDULE_SECONDS = [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400] as const

/** Added by chance, so that what failed together does not come back together. */
export const JITTER = 0.2

/** How long a receiver may ask us to wait. */
export const RETRY_AFTER_MOST_SECONDS = 86_400

/** Only failures for so long disable a webhook, if there was one at least so much later than the first. */
const GIVE_UP_MS = 5 * 86_400_000
const CLEARLY_LATER_MS = 12 * 3_600_000

/** Answers that ask for less at once. */
const BUSY = [429, 502, 503, 504]
/** The receiver wants nothing any more. */
export const GONE = 410

/**
 * Seconds until the next attempt of a delivery; null: there is none.
 * @param made attempts so far, the failed one included
 * @param retryAfter seconds that the receiver asked for, or null
 * @param chance from 0 to 1
 */
export function secondsUntilRetry(made: number, retryAfter: number | null, chance: number): number | null {
  const planned = SCHEDULE_SECONDS[made]
  if (planned === undefined) return null
  return Math.max(planned * (1 + JITTER * chance), Math.min(retryAfter ?? 0, RETRY_AFTER_MOST_SECONDS))
}

/** `Retry-After` (RFC 9110, 10.2.3) in seconds from now: a number of seconds or a date; null for anything else. */
export function retryAfterSeconds(header: string | undefined, now: Date): number | null {
  const text = header?.trim() ?? ''
  if (/^\d{1,10}$/.test(text)) return Number(text)
  if (!/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/.test(text)) return null
  const time = Date.parse(text)
  return Number.isNaN(time) ? null : Math.max(0, (time - now.getTime()) / 1000)
}

/** What is known of how an endpoint does; times are the environment's. */
export type Health = { failing_since: Date | null; failed_at: Date | null; throttled: boolean }

/** How an endpoint does after an attempt, and why it is to be disabled, if it is. */
export function healthAfter(
  health: Health,
  { succeeded, status }: { succeeded: boolean; status: number | null },
  now: Date,
): Health & { disable: DisabledReason | null } {
  if (succeeded) return { failing_since: null, failed_at: null, throttled: false, disable: null }
  const since = health.failing_since ?? now
  const before = health.failed_at ?? since
  const isOver = now.getTime() - since.getTime() >= GIVE_UP_MS && before.getTime() - since.getTime() >= CLEARLY_LATER_MS
  return {
    failing_since: since,
    failed_at: now,
    throttled: health.throttled || (status !== null && BUSY.includes(status)),
    disable: status === GONE ? 'gone' : isOver ? 'failing' : null,
  }
}
