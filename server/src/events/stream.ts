/**
 * Streams of events (text/event-stream of the HTML standard), for clients that must not miss any.
 *
 * A stream is a place in the log, `at`, and reads on from there; the notifier only says when it is worth to look. `at`
 * passes over what the filters and the key hide, so the stream tells it: in the first block, and with each heartbeat,
 * there is an `id` without data, which by the standard moves the client's last event id and is no event. So a client
 * that comes again goes on at the right place even if it has seen nothing, and no later than what is kept.
 */
import type { FastifyRequest } from 'fastify'
import type { Deps, Principal } from '../deps.ts'
import { bearer } from '../http/bearer.ts'
import { following } from '../http/follow.ts'
import { commaList } from '../http/list.ts'
import { isAllowedFrom } from '../keys/addresses.ts'
import { ApiError, DatabaseUnavailableError } from '../lib/errors.ts'
import { visibleTypes } from './patterns.ts'
import { createSharedReads } from './shared-reads.ts'
import { checkKept, type EventText, readBounds, readEvents } from './store.ts'

/** Streams of one key in one process. */
export const STREAMS_PER_KEY = 100

/** Real milliseconds without a word before a heartbeat. */
const HEARTBEAT_MS = 15_000
/** How often the key is looked at, and the log, in case a notification was lost. */
const CHECK_MS = 3_000
/** From one look at the log until the next, when it changes all the time. */
const GATHER_MS = 20
/** After how long a client is to come again. */
const RETRY_MS = 1_000
/** Events of one look. */
const BATCH = 100

/** What one look has found, and the sequence up to which it looked. */
type Look = { events: EventText[]; at: number; more: boolean }

export type StreamFilters = { type?: string; resource?: string }

/** @returns opens a stream for the request that asks for it; `after` is null for the present end */
export function createStreams(deps: Deps) {
  const share = createSharedReads<Look>(deps.notifier)
  const open = new Map<string, number>()

  /** The events after a sequence that the key may see. Throws `events_expired`. */
  function look(principal: Principal, { type, resource = '' }: StreamFilters, after: number): Promise<Look> {
    const { environment_id } = principal
    const types = visibleTypes(principal.scopes, commaList(type))
    return share(environment_id, JSON.stringify([after, types, resource]), async () => {
      const window = { after, descending: false, limit: BATCH }
      const filters = { types, resource: resource || null }
      const found = await readEvents(deps.sql.as(environment_id), principal, filters, window)
      checkKept(after, found)
      const more = found.events.length === BATCH
      return { events: found.events, at: more ? found.events.at(-1)!.ordinal : Math.max(after, found.last), more }
    })
  }

  /** The key as it is now; null when it has ended, or may not listen any longer. */
  async function principalNow(request: FastifyRequest): Promise<Principal | null> {
    const key = bearer(request.headers.authorization)!
    const principal = deps.keys.cached(key) ?? (await deps.keys.find(key))
    if (!principal?.scopes.includes('events:read')) return null
    return isAllowedFrom(principal.allowed_addresses, request.ip) ? principal : null
  }

  async function* tell(request: FastifyRequest, filters: StreamFilters, after: number, signal: AbortSignal) {
    const { environment_id } = request.principal
    let at = after
    let spoken = deps.clock.monotonic()
    let more = true
    yield `retry: ${RETRY_MS}\nid: ${at}\n\n`
    while (!signal.aborted) {
      // Registered first, then read, then awaited; not as long as there is more to read.
      const changed = more ? null : deps.notifier.nextChange(environment_id, CHECK_MS, signal)
      const begin = deps.clock.monotonic()
      const found = await listen()
      if (found === 'over') return
      if (found !== 'away') at = found.at
      if (found !== 'away' && found.events.length > 0) {
        yield found.events.map(blockOf).join('')
        spoken = deps.clock.monotonic()
      } else if (deps.clock.monotonic() - spoken >= HEARTBEAT_MS) {
        yield `: heartbeat\nid: ${at}\n\n`
        spoken = deps.clock.monotonic()
      }
      more = found !== 'away' && found.more
      if (changed === null || more) continue
      await changed
      await deps.clock.sleep(Math.max(0, begin + GATHER_MS - deps.clock.monotonic()), signal)
    }

    /** `away`: the database does not answer, and a client is better off waiting. `over`: what follows is another answer. */
    async function listen(): Promise<Look | 'away' | 'over'> {
      try {
        const principal = await principalNow(request)
        return principal ? await look(principal, filters, at) : 'over'
      } catch (error) {
        if (error instanceof ApiError) return 'over'
        if (error instanceof DatabaseUnavailableError) return 'away'
        throw error
      }
    }
  }

  /** Counts the stream as one of its key, until its connection is closed. */
  function enter({ key_id }: Principal, answer: { once(event: 'close', left: () => void): unknown }): void {
    const count = open.get(key_id) ?? 0
    if (count >= STREAMS_PER_KEY) {
      const detail = `The key already has ${STREAMS_PER_KEY} open streams, the maximum. Close one, or read the events of several resources in one stream.`
      throw new ApiError('rate_limited', detail, { headers: { 'retry-after': '5' } })
    }
    open.set(key_id, count + 1)
    answer.once('close', () => {
      const left = open.get(key_id)! - 1
      if (left > 0) open.set(key_id, left)
      else open.delete(key_id)
    })
  }

  return async function openStream(
    request: FastifyRequest,
    answer: { once(event: 'close', left: () => void): unknown },
    filters: StreamFilters,
    after: number | null,
  ) {
    const { principal } = request
    enter(principal, answer)
    const bounds = await readBounds(deps.sql.as(principal.environment_id), principal.environment_id)
    if (after !== null) checkKept(after, bounds)
    return following(deps, request.raw, (signal) => tell(request, filters, after ?? bounds.last, signal))
  }
}

const blockOf = ({ ordinal, type, text }: EventText): string => `id: ${ordinal}\nevent: ${type}\ndata: ${text}\n\n`
