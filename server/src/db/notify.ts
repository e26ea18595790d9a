/**
 * Telling other processes, and our own waiters, that something has changed.
 *
 * A NOTIFY inside a transaction makes all commits of the database queue up behind one lock, so notifications are sent
 * after the commit, from the pool, and gathered for a moment: a thousand creates cost a few statements. They are hints:
 * one that is lost (the process died after its commit) costs a poll interval, never a change.
 */
import type { Clock } from '../lib/clock.ts'
import type { Sql } from './database.ts'

/** Channel of changed resources; its payload is a JSON array of ids. */
const CHANGED_CHANNEL = 'changed'
const GATHER_MS = 3
/** Payloads of NOTIFY end at 8,000 bytes. */
const IDS_PER_PAYLOAD = 300

export type Notifier = {
  /** There is work for the engines. */
  announce(): void
  /** The resource with this id has changed. */
  changed(id: string): void
  /**
   * Resolves at the next change of the id, after `ms`, or when the signal aborts. Register first (call it), then read,
   * then await: so no change falls between.
   */
  nextChange(id: string, ms: number, signal?: AbortSignal): Promise<void>
  /**
   * Calls back at every change, at once for those that this process tells of; with null when some may have been missed.
   */
  onChange(listener: (id: string | null) => void): void
  start(): Promise<void>
  stop(): Promise<void>
}

/** @param workChannel channel that the engines listen on */
export function createNotifier(sql: Sql, clock: Clock, workChannel: string): Notifier {
  const ids = new Set<string>()
  const waiters = new Map<string, Set<() => void>>()
  const listeners: ((id: string | null) => void)[] = []
  let work = false
  let gathering = false
  let listener: { unlisten(): Promise<void> } | null = null

  function gather(): void {
    if (gathering) return
    gathering = true
    clock.after(GATHER_MS, () => {
      gathering = false
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
      gather()
    },
    changed(id) {
      release(id)
      ids.add(id)
      gather()
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
