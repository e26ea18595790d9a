/**
 * Patience with a source: how long to wait for it and when to ask again.
 *
 * What ends the patience is the lack of progress, not the length of a download: a byte of the answer's body resets the
 * clock, nothing else does. So one watch covers the name look-up, the connection, the wait for headers and a body that
 * stops, across attempts. A broken connection is tried again after 0.5 to 8 s. Because a source could feed us a byte a
 * minute, or break after every byte, attempts and total time have limits of their own.
 */
import { type Clock, systemClock } from '../../lib/clock.ts'
import { OutboundError } from '../../lib/outbound.ts'
import { ImportError } from './errors.ts'
import type { SourceName } from './source.ts'
import { plain } from './text.ts'

const MIN_BACKOFF_MS = 500
const MAX_BACKOFF_MS = 8000
const MAX_ATTEMPTS = 200
const MAX_TOTAL_MS = 24 * 3600 * 1000

/** Given to each attempt: its end, and where it reports bytes. */
export type Watch = { signal: AbortSignal; progress: () => void }

/** A failure of one attempt that another may not meet. The message completes "HOST could not be read: …". */
export class RetryableError extends Error {}

class StallError extends Error {}

/** Runs attempts until one succeeds. Throws ImportError: at once when an attempt throws one, else out of patience. */
export async function withRetries<T>(
  source: SourceName,
  stallMs: number,
  attempt: (watch: Watch) => Promise<T>,
  clock: Clock = systemClock,
): Promise<T> {
  const start = clock.monotonic()
  let lastProgress = start
  let fruitless = 0
  for (let attempts = 1; ; attempts++) {
    const before = lastProgress
    const controller = new AbortController()
    const watchdog = startWatchdog(clock, controller, () => {
      const late = clock.monotonic() - start > MAX_TOTAL_MS
      return late ? 0 : lastProgress + stallMs - clock.monotonic()
    })
    const progress = () => {
      lastProgress = clock.monotonic()
    }
    try {
      return await attempt({ signal: controller.signal, progress })
    } catch (error) {
      if (controller.signal.reason instanceof StallError) throw stallError(source, stallMs, error)
      if (!isRetryable(error)) throw publicError(source, error)
      fruitless = lastProgress > before ? 0 : fruitless + 1
      const pause = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** Math.max(0, fruitless - 1))
      const patience = lastProgress + stallMs - clock.monotonic()
      if (attempts === MAX_ATTEMPTS || pause >= patience) throw publicError(source, error)
      watchdog.cancel()
      await clock.sleep(pause)
    } finally {
      watchdog.cancel()
    }
  }
}

/** Aborts with Stalled when `remaining()` is used up. */
function startWatchdog(clock: Clock, controller: AbortController, remaining: () => number): { cancel(): void } {
  let timer = { cancel() {} }
  const look = () => {
    const ms = remaining()
    if (ms <= 0) controller.abort(new StallError())
    else timer = clock.after(ms, look)
  }
  look()
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

/** What the network said, in words that carry no address. */
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
