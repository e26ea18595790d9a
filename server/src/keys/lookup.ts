/**
 * From the text of a key to its principal. Lookups are by digest, and those that arrive while a statement runs share the
 * next one: any number of requests with unknown keys costs one statement at a time, and no valid key has to wait longer.
 */
import type { Sql } from '../db/database.ts'
import type { Clock } from '../lib/clock.ts'
import { isWellFormed, keyDigest } from './format.ts'
import type { Principal } from './principal.ts'

/** How long a valid key is cached, in real time; a revocation takes effect in every process within this time. */
const CACHE_MS = 500
const CACHE_SIZE = 10_000
/** Keys of one statement. */
const BATCH = 500

export type KeyLookup = {
  /** The principal of a cached key; undefined if the key is not cached: use `find`. */
  cached(key: string): Principal | undefined
  /** The current principal. Null for every invalid key, for any reason. A malformed key costs no query. */
  find(key: string): Promise<Principal | null>
  /** Removes a key from the cache; called after a commit that changed it. */
  drop(keyId: string): void
}

type Found = Principal & { digest: Buffer; remaining_ms: number | null }
type Waiting = { key: string; resolve: (found: Principal | null) => void; reject: (error: unknown) => void }

const hexOf = (digest: Uint8Array) => Buffer.from(digest).toString('hex')

/** Looks up keys and caches the valid ones, so that a busy key costs two queries per second. */
export function createKeyLookup(deps: { sql: Sql; clock: Clock; pepper: Uint8Array }): KeyLookup {
  const cache = new Map<string, { principal: Principal; until: number }>()
  let drops = 0
  const waiting: Waiting[] = []
  let isRunning = false

  async function run(): Promise<void> {
    isRunning = true
    while (waiting.length > 0) {
      const batch = waiting.splice(0, BATCH)
      try {
        const found = await read(batch.map(({ key }) => key))
        for (const { key, resolve } of batch) resolve(found.get(key) ?? null)
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    isRunning = false
  }

  /** The principals of the valid keys. Reads all tenants: the key determines the tenant. */
  async function read(keys: readonly string[]): Promise<Map<string, Principal>> {
    const digests = new Map(keys.map((key) => [hexOf(keyDigest(key, deps.pepper)), key]))
    const startedAt = deps.clock.monotonic()
    const dropsBefore = drops
    const rows = await deps.sql<Found[]>`
      select k.digest, k.id as key_id, e.project_id, k.environment_id, e.mode, k.scopes, k.allowed_addresses, k.budget_id,
        (extract(epoch from least(k.expires_at, k.retires_at, k.revoked_at) - now()) * 1000)::float8 as remaining_ms
      from api_keys k join environments e on e.id = k.environment_id
      where k.digest = any(${[...digests.keys()].map((hex) => Buffer.from(hex, 'hex'))}::bytea[])
        and coalesce(least(k.expires_at, k.retires_at, k.revoked_at), 'infinity') > now()`
    const found = new Map<string, Principal>()
    for (const key of keys) cache.delete(key)
    for (const { digest, remaining_ms, ...principal } of rows) {
      const key = digests.get(hexOf(digest))!
      found.set(key, principal)
      if (cache.size >= CACHE_SIZE) cache.clear()
      // A row that was read before a drop can be outdated.
      if (drops !== dropsBefore) continue
      cache.set(key, { principal, until: startedAt + Math.min(CACHE_MS, remaining_ms ?? CACHE_MS) })
    }
    return found
  }

  return {
    cached(key) {
      const entry = cache.get(key)
      if (entry && entry.until > deps.clock.monotonic()) return entry.principal
      if (entry) cache.delete(key)
      return undefined
    },
    async find(key) {
      if (!isWellFormed(key)) return null
      return new Promise((resolve, reject) => {
        waiting.push({ key, resolve, reject })
        if (!isRunning) void run()
      })
    },
    drop(keyId) {
      drops++
      for (const [key, { principal }] of cache) if (principal.key_id === keyId) cache.delete(key)
    },
  }
}
