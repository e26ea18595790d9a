import type { Sql } from '../db/database.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { recordUses } from './store.ts'

/** A key's use is written at most once per interval. */
const INTERVAL_MS = 60_000
/** How long uses are collected before they are written together. */
const COLLECT_MS = 1_000
/** Keys with a recorded use; above it the oldest are removed, and their next use is written again. */
const MAX_KEYS = 10_000

export type KeyUsage = {
  /** Records that a request used this key from an IP address. Costs no statement and cannot fail. */
  record(keyId: string, address: string | null): void
}

/** Writes the time and IP address of uses of keys, in batches. A use can be lost. */
export function createKeyUsage({ sql, clock, log }: { sql: Sql; clock: Clock; log: Log }): KeyUsage {
  const lastUses = new Map<string, number>()
  let pending = new Map<string, string | null>()

  async function write(): Promise<void> {
    const uses = [...pending].map(([key_id, address]) => ({ key_id, address }))
    pending = new Map()
    await recordUses(sql, uses).catch((error: Error) => {
      log.warn({ error: error.message, keys: uses.length }, 'cannot record the use of keys')
    })
  }

  return {
    record(keyId, address) {
      const now = clock.monotonic()
      if ((lastUses.get(keyId) ?? Number.NEGATIVE_INFINITY) > now - INTERVAL_MS) return
      lastUses.delete(keyId)
      if (lastUses.size >= MAX_KEYS) lastUses.delete(lastUses.keys().next().value!)
      lastUses.set(keyId, now)
      if (pending.size === 0) clock.after(COLLECT_MS, () => void write())
      pending.set(keyId, address)
    },
  }
}
