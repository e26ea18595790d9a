import type { Sql } from '../db/database.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { clientAddress } from './addresses.ts'
import { noteUses } from './store.ts'

/** At most once in so many milliseconds is a key's use written. */
const INTERVAL_MS = 60_000
/** Uses are gathered for so long. */
const GATHER_MS = 1_000
/** Keys remembered; beyond it the oldest are written again too soon, which does no harm. */
const MOST_KEYS = 10_000

export type KeyUsage = {
  /** A request has come with this key, from the address that `request.ip` says. Costs nothing and cannot fail. */
  note(keyId: string, ip: string | undefined): void
}

/** Writes when and from where keys were used: later, many at once, and a loss is only a loss of this. */
export function createKeyUsage({ sql, clock, log }: { sql: Sql; clock: Clock; log: Log }): KeyUsage {
  const noted = new Map<string, number>()
  let pending = new Map<string, string | null>()

  async function write(): Promise<void> {
    const uses = [...pending].map(([key_id, address]) => ({ key_id, address }))
    pending = new Map()
    await noteUses(sql, uses).catch((error: Error) => {
      log.warn({ error: error.message, keys: uses.length }, 'cannot note the use of keys')
    })
  }

  return {
    note(keyId, ip) {
      const now = clock.monotonic()
      if ((noted.get(keyId) ?? Number.NEGATIVE_INFINITY) > now - INTERVAL_MS) return
      noted.delete(keyId)
      if (noted.size >= MOST_KEYS) noted.delete(noted.keys().next().value!)
      noted.set(keyId, now)
      if (pending.size === 0) clock.after(GATHER_MS, () => void write())
      pending.set(keyId, clientAddress(ip))
    },
  }
}
