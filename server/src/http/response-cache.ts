/**
 * Caches GET responses of single resources in this process until the resource changes. A hit needs no query and no
 * serialisation.
 *
 * A change invalidates the entry. The process that made the change does so before it responds, so a client always reads
 * its own writes; other processes do so when the notification arrives, milliseconds later. A notification can be lost in
 * a crash, so the TTL is one second. A response whose resource changed during the read is not cached.
 */
import type { Notifier } from '../db/notify.ts'
import type { Clock } from '../lib/clock.ts'
import { etagOf } from './etag.ts'

/** Time-to-live of an entry in real milliseconds. */
const TTL_MS = 1_000
/** The cache is cleared when it has this many entries. */
const MAX_ENTRIES = 10_000

/** A serialised object. */
export type CachedResponse = { etag: string; text: string }

type Entry = {
  environment_id: string
  response: CachedResponse | null
  until: number
  /** The read in progress; concurrent requests share it. */
  reading: Promise<CachedResponse | null> | null
}

export type ResponseCache = {
  /** The cached response for a resource of an environment; null when there is none or it has expired. */
  get(environmentId: string, id: string): CachedResponse | null
  /** Reads a resource and caches it when `keep` is true, that is, when every change to it is notified. Null: not found. */
  fill<T>(
    environmentId: string,
    id: string,
    read: () => Promise<T | null>,
    show: (row: T) => object,
    keep: (row: T) => boolean,
  ): Promise<CachedResponse | null>
}

export function createResponseCache({ clock, notifier }: { clock: Clock; notifier: Notifier }): ResponseCache {
  const entries = new Map<string, Entry>()
  notifier.onChange((id) => {
    if (id === null) entries.clear()
    else entries.delete(id)
  })

  return {
    get(environmentId, id) {
      const entry = entries.get(id)
      if (!entry?.response || entry.environment_id !== environmentId || entry.until <= clock.monotonic()) return null
      return entry.response
    },
    async fill(environmentId, id, read, show, keep) {
      // A request for another tenant's resource must not evict the owner's entry.
      const held = entries.get(id)
      if (held && held.environment_id !== environmentId) {
        const row = await read()
        return row === null ? null : responseOf(show(row))
      }
      if (held?.reading) return held.reading
      const until = clock.monotonic() + TTL_MS
      const entry: Entry = { environment_id: environmentId, response: null, until, reading: null }
      if (entries.size >= MAX_ENTRIES) entries.clear()
      entries.set(id, entry)
      const evict = () => entries.get(id) === entry && entries.delete(id)
      entry.reading = read().then(
        (row) => {
          entry.reading = null
          if (row === null) {
            evict()
            return null
          }
          const response = responseOf(show(row))
          if (keep(row)) entry.response = response
          return response
        },
        (error) => {
          evict()
          throw error
        },
      )
      return entry.reading
    },
  }
}

function responseOf(object: object): CachedResponse {
  return { etag: etagOf(object), text: JSON.stringify(object) }
}
