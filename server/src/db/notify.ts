/**
 * Notifies other processes, and waiters of this process, of changes.
 *
 * NOTIFY inside a transaction takes a lock that serializes all commits of the database. So notifications are sent after
 * the commit, in batches: a thousand creates cost a few statements. They are hints: when one is lost (the process was
 * killed after its commit), the change is found at the next poll interval.
 */
import type { Clock } from '../lib/clock.ts'
import type { Sql } from './database.ts'

/** Channel of changed resources; its payload is a JSON array of ids. */
const CHANGED_CHANNEL = 'changed'
const BATCH_MS = 3
/** NOTIFY limits a payload to 8,000 bytes. */
const IDS_PER_PAYLOAD = 300

export type Notifier = {
  /** Notifies the engines of all processes of due work. */
  announce(): void
  /** Notifies waiters in all processes that the resource has changed. */
  changed(id: string): void
  /**
   * Resolves at the next change of the resource, after `ms`, or when the signal aborts. Call it, then read the resource,
   * then await the promise, so that no change is missed.
   */
  nextChange(id: string, ms: number, signal?: AbortSignal): Promise<void>
  /**
   * Calls the listener with the ID of each changed resource, immediately for changes of this process, and with null
   * when notifications may have been missed.
   */
  onChange(listener: (id: string | null) => void): void
  start(): Promise<void>
  stop(): Promise<void>
}

/** @param workChannel the channel on which the engines listen */
export function createNotifier(sql: Sql, clock: Clock, workChannel: string): Notifier {
  const ids = new Set<string>()
  const waiters = new Map<string, Set<() => void>>()
  const listeners: ((id: string | null) => void)[] = []
  let work = false
  let isScheduled = false
  let listener: { unlisten(): Promise<void> } | null = null

  function schedule(): void {
    if (isScheduled) return
    isScheduled = true
    clock.after(BATCH_MS, () => {
      isScheduled = false
      const all = [...ids]
      ids.clear()
      const payloads: [string, string][] = work ? [[workChannel, '']] : []
      work = false
      for (let i = 0; i < all.length; i += IDS_PER_PAYLOAD) {
        payloads.push([CHANGED_CHANNEL, JSON.stringify(all.slice(i, i + IDS_PER_PAYLOAD))])
      }
      for (const [channel, payload] of payloads) {
        sql`select pg_notify(${channel}, ${payload})`.catch(() => {})
      }
    })
  }

  const release = (id: string) => {
    for (const listener of listeners) listener(id)
    for (const done of [...(waiters.get(id) ?? [])]) done()
  }
  const releaseAll = () => {
    for (const listener of listeners) listener(null)
    for (const set of [...waiters.values()]) for (const done of [...set]) done()
  }

  return {
    announce() {
      work = true
      schedule()
    },
    changed(id) {
      release(id)
      ids.add(id)
      schedule()
    },
    nextChange(id, ms, signal) {
      return new Promise((resolve) => {
        const set = waiters.get(id) ?? new Set()
        waiters.set(id, set)
        const done = () => {
          alarm.cancel()
          signal?.removeEventListener('abort', done)
          set.delete(done)
          if (set.size === 0 && waiters.get(id) === set) waiters.delete(id)
          resolve()
        }
        const alarm = clock.after(Math.max(0, ms), done)
        set.add(done)
        if (signal?.aborted) done()
        else signal?.addEventListener('abort', done)
      })
    },
    onChange(listener) {
      listeners.push(listener)
    },
    async start() {
      const changed = (payload: string) => {
        for (const id of JSON.parse(payload) as string[]) release(id)
      }
      listener = await sql.listen(CHANGED_CHANNEL, changed, releaseAll)
    },
    async stop() {
      await listener?.unlisten()
      releaseAll()
    },
  }
}
