/**
 * Answers about single resources, kept in this process until the resource changes: a busy GET costs no query and no
 * serialisation.
 *
 * A change drops the answer: at once in the process that made it, before its own answer goes out, so that who has
 * changed something reads what it has become; elsewhere when the notification arrives, milliseconds later. A
 * notification can be lost with the process that owed it, so nothing is believed for longer than a second. An answer that
 * was read while its resource changed is not kept.
 */
import type { Notifier } from '../db/notify.ts'
import type { Clock } from '../lib/clock.ts'
import { etagOf } from './etag.ts'

/** Real milliseconds for which an answer is believed. */
const TRUST_MS = 1_000
/** Resources that are remembered; beyond it all is forgotten. */
const SIZE = 10_000

/** An object as it goes out. */
export type CachedResponse = { etag: string; text: string }

type Entry = {
  environment_id: string
  answer: CachedResponse | null
  until: number
  /** The read that is under way: whoever asks meanwhile waits for the same. */
  reading: Promise<CachedResponse | null> | null
}

export type ResponseCache = {
  /** The answer about a resource of an environment, if it is here and may be believed. */
  get(environmentId: string, id: string): CachedResponse | null
  /** Reads and keeps: `keep` says whether what was read changes by notified changes alone. Null: there is nothing. */
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
      if (!entry?.answer || entry.environment_id !== environmentId || entry.until <= clock.monotonic()) return null
      return entry.answer
    },
    async fill(environmentId, id, read, show, keep) {
      // Who asks for a stranger's resource does not push out what its owner reads.
      const held = entries.get(id)
      if (held && held.environment_id !== environmentId) {
        const row = await read()
        return row === null ? null : responseOf(show(row))
      }
      if (held?.reading) return held.reading
      const until = clock.monotonic() + TRUST_MS
      const entry: Entry = { environment_id: environmentId, answer: null, until, reading: null }
      if (entries.size >= SIZE) entries.clear()
      entries.set(id, entry)
      const forget = () => entries.get(id) === entry && entries.delete(id)
      entry.reading = read().then(
        (row) => {
          entry.reading = null
          if (row === null) {
            forget()
            return null
          }
          const answer = responseOf(show(row))
          if (keep(row)) entry.answer = answer
          return answer
        },
        (error) => {
          forget()
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
