import type { Principal } from '../keys/principal.ts'
import { type Bucket, createBucket } from './bucket.ts'
import type { Policy } from './gcra.ts'

/** Classes of requests with a key. */
export const KEY_CLASSES = ['reads', 'writes', 'creates'] as const
export type KeyClass = (typeof KEY_CLASSES)[number]

/** Classes of requests without a valid key: to public routes, and to routes that require a key. */
export type AddressClass = 'unauthenticated' | 'failed_authentication'

/** Names of policies in the configuration; in test environments those with `test_` apply. */
export type PolicyName = KeyClass | `test_${'writes' | 'creates'}` | AddressClass

export type RateLimits = {
  /** False: requests are not limited, and responses have no rate limit headers. */
  enabled: boolean
  /** The limit of all keys of a project's environment together, as a multiple of that of one key. */
  keys_per_project: number
} & Record<PolicyName, Policy>

/** The default classes of a route. */
export function classesOf(method: string): readonly KeyClass[] {
  return method === 'GET' || method === 'HEAD' ? READS : WRITES
}
const READS = ['reads'] as const
const WRITES = ['writes'] as const

/** By class: the key's own bucket, then that of all keys of its project's environment. */
export type KeyBuckets = Record<KeyClass, [own: Bucket, shared: Bucket]>

const MAX_KEYS = 20_000

/**
 * The buckets of each key, created on its first request. An evicted bucket is restored from the database. The keys of a
 * project share a bucket per environment, not per project: the environments have different policies, and a load test must
 * not slow down the live environment.
 */
export function createKeyBuckets(limits: RateLimits): (principal: Principal) => KeyBuckets {
  const byKey = new Map<string, KeyBuckets>()
  const byEnvironment = new Map<string, Record<KeyClass, Bucket>>()

  function policy(name: KeyClass, mode: Principal['mode']): Policy {
    return mode === 'live' || name === 'reads' ? limits[name] : limits[`test_${name}`]
  }

  function shared({ environment_id, mode }: Principal): Record<KeyClass, Bucket> {
    return getOrCreate(byEnvironment, environment_id, () =>
      forClasses((name) => {
        const { rate_per_second, burst } = policy(name, mode)
        const factor = limits.keys_per_project
        return createBucket({
          id: `${environment_id}:${name}`,
          environment_id,
          name: `project_${name}`,
          policy: { rate_per_second: rate_per_second * factor, burst: burst * factor },
          when_unavailable: name === 'creates' ? 'refuse' : 'pass',
        })
      }),
    )
  }

  return (principal) => {
    const known = byKey.get(principal.key_id)
    if (known) return known
    return getOrCreate(byKey, principal.key_id, () => {
      const { key_id, environment_id, mode } = principal
      const together = shared(principal)
      return forClasses((name) => [
        createBucket({
          id: `${key_id}:${name}`,
          environment_id,
          name,
          policy: policy(name, mode),
          when_unavailable: name === 'creates' ? 'refuse' : 'pass',
        }),
        together[name],
      ])
    })
  }
}

function forClasses<T>(make: (name: KeyClass) => T): Record<KeyClass, T> {
  return { reads: make('reads'), writes: make('writes'), creates: make('creates') }
}

/** Returns the entry of a map, creating it if necessary; evicts the oldest entry of a full map. */
function getOrCreate<T>(map: Map<string, T>, id: string, make: () => T): T {
  const known = map.get(id)
  if (known) return known
  if (map.size >= MAX_KEYS) map.delete(map.keys().next().value!)
  const made = make()
  map.set(id, made)
  return made
}
