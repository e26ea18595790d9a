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

/**
 * `Retry-After` (RFC 9110, 10.2.3) as seconds from now: a number of seconds or a date in one of the three forms of HTTP; null
 * for anything else. Of several numbers, which proxies have added, the largest counts.
 */
export function retryAfterSeconds(header: string | undefined, now: Date): number | null {
  const text = header?.trim() ?? ''
  if (/^\d{1,10}(\.\d{1,9})?(\s*,\s*\d{1,10}(\.\d{1,9})?){0,9}$/.test(text)) {
    return Math.max(...text.split(',').map(Number))
  }
  const time = httpDate(text, now)
  return time === null ? null : Math.max(0, (time - now.getTime()) / 1000)
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const TIME = '(?<time>\\d\\d:\\d\\d:\\d\\d)'
/** IMF-fixdate, and the two obsolete forms that a recipient must accept (RFC 9110, 5.6.7). */
const DATES = [
  `[A-Z][a-z]{2}, (?<day>\\d\\d) (?<month>[A-Z][a-z]{2}) (?<year>\\d{4}) ${TIME} GMT`,
  `[A-Z][a-z]{5,8}, (?<day>\\d\\d)-(?<month>[A-Z][a-z]{2})-(?<year>\\d\\d) ${TIME} GMT`,
  `[A-Z][a-z]{2} (?<month>[A-Z][a-z]{2}) (?<day>[ \\d]\\d) ${TIME} (?<year>\\d{4})`,
].map((form) => new RegExp(`^${form}$`))

/** Milliseconds since 1970; null if the text is no date. */
function httpDate(text: string, now: Date): number | null {
  const found = DATES.map((form) => form.exec(text)?.groups).find((groups) => groups !== undefined)
  if (found === undefined) return null
  const month = MONTHS.indexOf(found.month!) + 1
  const day = found.day!.trim().padStart(2, '0')
  const iso = `${fullYear(found.year!, now)}-${String(month).padStart(2, '0')}-${day}T${found.time}Z`
  const time = Date.parse(iso)
  return Number.isNaN(time) ? null : time
}

/** Two digits that would be more than 50 years ahead are of the past (RFC 9110, 5.6.7). */
function fullYear(digits: string, now: Date): number {
  if (digits.length === 4) return Number(digits)
  const century = Math.floor(now.getUTCFullYear() / 100) * 100
  const year = century + Number(digits)
  return year > now.getUTCFullYear() + 50 ? year - 100 : year
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
