/**
 * Timeouts and retries of downloads.
 *
 * A download fails when it makes no progress for the stall timeout; its total duration does not matter. Only a received
 * byte of the body counts as progress, so one timeout covers name resolution, connection, headers and body, across
 * attempts. A failed attempt is retried after a backoff of 0.5 to 8 s. The number of attempts and the total time are
 * limited too, because a source could send one byte per minute, or close the connection after every byte.
 */
import { type Clock, systemClock } from '../../lib/clock.ts'
import { OutboundError } from '../../lib/outbound.ts'
import { ImportError, RetryableError } from './errors.ts'
import type { SourceName } from './source.ts'
import { plain } from './text.ts'

const MIN_BACKOFF_MS = 500
const MAX_BACKOFF_MS = 8000
const MAX_ATTEMPTS = 200
const MAX_TOTAL_MS = 24 * 3600 * 1000

/**
 * Passed to each attempt: `signal` aborts it, and it calls `progress` for received bytes. `paused` waits for something else
 * than the source, which counts neither as silence nor in the total time.
 */
export type Watch = { signal: AbortSignal; progress: () => void; paused: (work: Promise<void>) => Promise<void> }

class StallError extends Error {}

/** Retries an attempt until it succeeds. Throws ImportError when an attempt throws one, or when no retry is left. */
export async function withRetries<T>(
  source: SourceName,
  stallMs: number,
  attempt: (watch: Watch) => Promise<T>,
  clock: Clock = systemClock,
): Promise<T> {
  let start = clock.monotonic()
  let lastProgress = start
  let isPaused = false
  /** How long the download was paused since the last progress. */
  let pausedMs = 0
  let withoutProgress = 0
  for (let attempts = 1; ; attempts++) {
    const before = lastProgress
    const controller = new AbortController()
    const watchdog = startWatchdog(clock, controller, () => {
      if (isPaused) return stallMs
      const late = clock.monotonic() - start > MAX_TOTAL_MS
      return late ? 0 : lastProgress + pausedMs + stallMs - clock.monotonic()
    })
    const progress = () => {
      lastProgress = clock.monotonic()
      pausedMs = 0
    }
    const paused = async (work: Promise<void>) => {
      const begin = clock.monotonic()
      isPaused = true
      await work.finally(() => {
        isPaused = false
        const ms = clock.monotonic() - begin
        start += ms
        pausedMs += ms
      })
    }
    try {
      return await attempt({ signal: controller.signal, progress, paused })
    } catch (error) {
      if (controller.signal.reason instanceof StallError) throw stallError(source, stallMs, error)
      if (!isRetryable(error)) throw publicError(source, error)
      withoutProgress = lastProgress > before ? 0 : withoutProgress + 1
      const backoff = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** Math.max(0, withoutProgress - 1))
      const remaining = lastProgress + pausedMs + stallMs - clock.monotonic()
      if (attempts === MAX_ATTEMPTS || backoff >= remaining) throw publicError(source, error)
      watchdog.cancel()
      await clock.sleep(backoff)
    } finally {
      watchdog.cancel()
    }
  }
}

/** Aborts with StallError when `remaining()` reaches 0. */
function startWatchdog(clock: Clock, controller: AbortController, remaining: () => number): { cancel(): void } {
  let timer = { cancel() {} }
  const check = () => {
    const ms = remaining()
    if (ms <= 0) controller.abort(new StallError())
    else timer = clock.after(ms, check)
  }
  check()
  return { cancel: () => timer.cancel() }
}

function isRetryable(error: unknown): boolean {
  if (error instanceof OutboundError) return error.code === 'name_not_resolved'
  return !(error instanceof ImportError)
}

function stallError(source: SourceName, stallMs: number, error: unknown): ImportError {
  const text = `${source.host} sent no data of ${source.file} for ${stallMs / 1000} s. Retry later, or use another mirror.`
  return new ImportError('image_source_stalled', text, String(error))
}

function publicError(source: SourceName, error: unknown): ImportError {
  if (error instanceof ImportError) return error
  if (error instanceof OutboundError && error.code === 'destination_not_allowed') {
    const text = `${source.host}: destination not allowed. Use a public http or https URL, or ask the operator to allow this one.`
    return new ImportError('image_destination_not_allowed', text, error.detail)
  }
  const text = `${source.file} could not be downloaded from ${source.host}: ${reason(error)}. Check the URL, or retry later.`
  return new ImportError('image_source_unreachable', text, detail(error))
}

/** The reason of a network error, without IP addresses. */
function reason(error: unknown): string {
  if (error instanceof RetryableError || error instanceof OutboundError) return error.message
  const { code } = error as NodeJS.ErrnoException
  if (code === undefined) return 'the connection failed'
  return networkReasons[code] ?? `the connection failed (${plain(code, 60)})`
}

const networkReasons: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the host',
  ETIMEDOUT: 'the connection timed out',
  UND_ERR_CONNECT_TIMEOUT: 'the connection timed out',
  UND_ERR_SOCKET: 'the connection was closed early',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is not trusted',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is not trusted',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is not trusted',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another host name',
}

function detail(error: unknown): string {
  if (error instanceof OutboundError) return error.detail
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error)
}
