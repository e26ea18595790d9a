import type { Query, Sql } from '../db/database.ts'
import type { Principal } from '../deps.ts'
import type { Clock } from '../lib/clock.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import { isWellFormed, keyDigest, keyPrefix, newKey } from './format.ts'

/** Real milliseconds for which a key that was found is believed: a revocation is seen everywhere within them. */
const TRUST_MS = 1_000
const CACHE_SIZE = 10_000

export type KeyLookup = {
  /** The principal of a key that was looked up a moment ago; undefined: ask `find`. */
  cached(key: string): Principal | undefined
  /** Null for every key that does not work, whatever the reason. A malformed one costs no query. */
  find(key: string): Promise<Principal | null>
}

/** Looks keys up by digest and remembers the good ones for a second, so a busy key costs one query a second. */
export function createKeyLookup(deps: { sql: Sql; clock: Clock; pepper: Uint8Array }): KeyLookup {
  const known = new Map<string, { principal: Principal; until: number }>()

  return {
    cached(key) {
      const entry = known.get(key)
      if (entry && entry.until > deps.clock.monotonic()) return entry.principal
      if (entry) known.delete(key)
      return undefined
    },
    async find(key) {
      if (!isWellFormed(key)) return null
      const asked = deps.clock.monotonic()
      const [row] = await deps.sql<(Principal & { lives_ms: number | null })[]>`
        select k.id as key_id, e.project_id, k.environment_id, e.mode, k.scopes,
          (extract(epoch from least(k.expires_at, k.revoked_at) - now()) * 1000)::float8 as lives_ms
        from api_keys k join environments e on e.id = k.environment_id
        where k.digest = ${keyDigest(key, deps.pepper)}
          and (k.expires_at is null or k.expires_at > now()) and (k.revoked_at is null or k.revoked_at > now())`
      if (!row) return null
      const { lives_ms, ...principal } = row
      if (known.size >= CACHE_SIZE) known.clear()
      known.set(key, { principal, until: asked + Math.min(TRUST_MS, lives_ms ?? TRUST_MS) })
      return principal
    },
  }
}

/** Stores a new key and returns it with its text, which exists nowhere afterwards. */
export async function createKey(
  query: Query,
  secrets: { pepper: Uint8Array },
  random: Random,
  options: { environment_id: string; mode: 'live' | 'test'; name: string; scopes: readonly string[] },
): Promise<{ id: string; key: string }> {
  const key = newKey(options.mode, random)
  const id = newId('key', random)
  await query`
    insert into api_keys (id, environment_id, name, digest, prefix, scopes, created_at)
    values (${id}, ${options.environment_id}, ${options.name}, ${keyDigest(key, secrets.pepper)}, ${keyPrefix(key)},
            ${[...options.scopes]}, now())`
  return { id, key }
}
