import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { Deps } from '../deps.ts'
import type { Clock } from '../lib/clock.ts'
import { detachAbort, disconnect } from './deadlines.ts'

/** Maximum duration of a stream. */
const FOLLOW_LIMIT_MS = 3_600_000
/** The connection is closed when the client reads nothing for this long. */
const UNREAD_LIMIT_MS = 90_000

/**
 * A streaming response. It ends after an hour, when the client disconnects or stops reading, or at shutdown. The next
 * part is produced only when the previous one has been read.
 * @param make produces the parts; it must end when the signal aborts
 */
export function following(
  deps: Pick<Deps, 'clock' | 'stopping'>,
  request: IncomingMessage,
  make: (signal: AbortSignal) => AsyncIterable<Buffer | string>,
): Readable {
  return Readable.from(watched(deps, request, make))
}

async function* watched(
  { clock, stopping }: Pick<Deps, 'clock' | 'stopping'>,
  request: IncomingMessage,
  make: (signal: AbortSignal) => AsyncIterable<Buffer | string>,
) {
  const { signal, done } = detachAbort(request, stopping)
  const limit = new AbortController()
  const timer = clock.after(FOLLOW_LIMIT_MS, () => limit.abort())
  // A stream can be idle for long, so the idle timeout is replaced by a limit on unread data.
  request.socket.setTimeout?.(0)
  const isRead = watchdog(clock, UNREAD_LIMIT_MS, () => disconnect(request))
  try {
    for await (const part of make(AbortSignal.any([signal, limit.signal]))) {
      isRead.expect()
      yield part
      isRead.stop()
    }
  } finally {
    isRead.stop()
    timer.cancel()
    done()
  }
}

/** Calls `onTimeout` unless `stop` is called within `ms` of `expect`. */
function watchdog(clock: Clock, ms: number, onTimeout: () => void) {
  let timer: { cancel(): void } | null = null
  const stop = () => timer?.cancel()
  const expect = () => {
    stop()
    timer = clock.after(ms, onTimeout)
  }
  return { expect, stop }
}
