/**
 * Streams of events (`text/event-stream` of the HTML standard) that clients can resume without missing one.
 *
 * A stream reads on from a sequence number, its position; a notification only triggers the next read. The position passes
 * over events that the filters or the key exclude. So the first block and each heartbeat carry the position as an `id`
 * without data: by the standard it sets the client's last event ID without being an event. A client that reconnects then
 * resumes at the right position even if it received no event.
 */
import type { FastifyRequest } from 'fastify'
import { currentKey, refusalOf } from '../authority/authority.ts'
import type { Deps } from '../deps.ts'
import { following } from '../http/follow.ts'
import { commaList } from '../http/list.ts'
import { type ClosableResponse, createStreamLimit } from '../http/stream-limit.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError, DatabaseUnavailableError } from '../lib/errors.ts'
import { visibleTypes } from './patterns.ts'
import { createSharedReads } from './shared-reads.ts'
import { checkKept, type EventText, readBounds, readEvents } from './store.ts'

/** Maximum number of streams per key and process. */
export const STREAMS_PER_KEY = 100
const LIMIT = {
  per_key: STREAMS_PER_KEY,
  per_process: 5_000,
  hint: 'Close one, or read the events of several resources in one stream.',
}

/** Real milliseconds of silence before a heartbeat. */
const HEARTBEAT_MS = 15_000
/** Real milliseconds between checks of the key and of the events, in case a notification was lost. */
const CHECK_MS = 3_000
/** Minimum interval of reads, so that a busy environment is read in batches. */
const MIN_READ_INTERVAL_MS = 20
/** The reconnection delay of clients. */
const RETRY_MS = 1_000
/** Events per read. */
const BATCH = 100

/** The events of one read, and the position after it. */
type ReadResult = { events: EventText[]; position: number; more: boolean }

export type StreamFilters = { type?: string; resource?: string }

/** Returns a function that opens a stream for a request; `after` is null to start with new events. */
export function createStreams(deps: Deps) {
  const share = createSharedReads<ReadResult>(deps.notifier)
  const countStream = createStreamLimit(LIMIT)

  /** Reads the events after a position that the key may read. Throws `events_expired`. */
  function read(principal: Principal, { type, resource = '' }: StreamFilters, after: number): Promise<ReadResult> {
    const { environment_id } = principal
    const types = visibleTypes(principal.scopes, commaList(type))
    return share(environment_id, JSON.stringify([after, types, resource]), async () => {
      const window = { after, descending: false, limit: BATCH }
      const filters = { types, resource: resource || null }
      const found = await readEvents(deps.sql.as(environment_id), principal, filters, window)
      checkKept(after, found)
      const more = found.events.length === BATCH
      const position = more ? found.events.at(-1)!.ordinal : Math.max(after, found.last)
      return { events: found.events, position, more }
    })
  }

  async function* blocks(request: FastifyRequest, filters: StreamFilters, after: number, signal: AbortSignal) {
    const { environment_id } = request.principal
    let position = after
    let lastSent = deps.clock.monotonic()
    let more = true
    yield `retry: ${RETRY_MS}\nid: ${position}\n\n`
    while (!signal.aborted) {
      // Register before the read, so that no change is missed.
      const changed = more ? null : deps.notifier.nextChange(environment_id, CHECK_MS, signal)
      const start = deps.clock.monotonic()
      const found = await readOrStatus()
      if (found === 'ended') return
      if (found !== 'unavailable') position = found.position
      if (found !== 'unavailable' && found.events.length > 0) {
        yield found.events.map(blockOf).join('')
        lastSent = deps.clock.monotonic()
      } else if (deps.clock.monotonic() - lastSent >= HEARTBEAT_MS) {
        yield `: heartbeat\nid: ${position}\n\n`
        lastSent = deps.clock.monotonic()
      }
      more = found !== 'unavailable' && found.more
      if (changed === null || more) continue
      await changed
      await deps.clock.sleep(Math.max(0, start + MIN_READ_INTERVAL_MS - deps.clock.monotonic()), signal)
    }

    /** `unavailable`: the database is, and the client waits. `ended`: the client must reconnect to receive the error. */
    async function readOrStatus(): Promise<ReadResult | 'unavailable' | 'ended'> {
      try {
        const principal = await currentPrincipal(deps, request)
        return principal ? await read(principal, filters, position) : 'ended'
      } catch (error) {
        if (error instanceof ApiError) return 'ended'
        if (error instanceof DatabaseUnavailableError) return 'unavailable'
        throw error
      }
    }
  }

  return async function openStream(
    request: FastifyRequest,
    response: ClosableResponse,
    filters: StreamFilters,
    after: number | null,
  ) {
    const { principal } = request
    countStream(principal, response)
    const bounds = await readBounds(deps.sql.as(principal.environment_id), principal.environment_id)
    if (after !== null) checkKept(after, bounds)
    return following(deps, request.raw, (signal) => blocks(request, filters, after ?? bounds.last, signal))
  }
}

/** The key in its current state; null if it is revoked, expired or no longer allowed to stream. */
async function currentPrincipal(deps: Deps, request: FastifyRequest): Promise<Principal | null> {
  const principal = await currentKey(deps.keys, request)
  return refusalOf(principal, request) === null ? principal : null
}

const blockOf = ({ ordinal, type, text }: EventText): string => `id: ${ordinal}\nevent: ${type}\ndata: ${text}\n\n`
