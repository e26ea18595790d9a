import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { Deps } from '../deps.ts'
import type { Clock } from '../lib/clock.ts'
import { detachAbort } from './deadlines.ts'

/** A follower that lives longer is a forgotten one. */
const FOLLOW_LIMIT_MS = 3_600_000
/** A reader that takes nothing for this long is no reader. */
const UNREAD_LIMIT_MS = 90_000

/**
 * An answer that goes on for an hour at most, as long as its client stays and reads and the process is not being
 * stopped. Nothing is made before what was made is taken.
 * @param make makes the parts; it has to end when the signal aborts
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
  const old = new AbortController()
  const limit = clock.after(FOLLOW_LIMIT_MS, () => old.abort())
  // What is followed may be silent for long; so what counts is what is not read, and not the silence of the connection.
  request.socket.setTimeout?.(0)
  const isRead = watchdog(clock, UNREAD_LIMIT_MS, () => request.socket.destroy())
  try {
    for await (const part of make(AbortSignal.any([signal, old.signal]))) {
      isRead.expect()
      yield part
      isRead.stop()
    }
  } finally {
    isRead.stop()
    limit.cancel()
    done()
  }
}

/** Bites unless it is stopped within `ms` after something was expected. */
function watchdog(clock: Clock, ms: number, bite: () => void) {
  let timer: { cancel(): void } | null = null
  const stop = () => timer?.cancel()
  const expect = () => {
    stop()
    timer = clock.after(ms, bite)
  }
  return { expect, stop }
}
