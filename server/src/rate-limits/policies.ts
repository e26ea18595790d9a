import type { Principal } from '../keys/principal.ts'
import { type Bucket, createBucket } from './bucket.ts'
import type { Policy } from './gcra.ts'

/** What a request of a key can spend. */
export const KEY_CLASSES = ['reads', 'writes', 'creates'] as const
export type KeyClass = (typeof KEY_CLASSES)[number]

/** What a request without a key spends: by asking for a public page, and by not showing a valid key where one is needed. */
export type AddressClass = 'unauthenticated' | 'failed_authentication'

/** Names of policies in the configuration; those with `test_` take the place of the others in test environments. */
export type PolicyName = KeyClass | `test_${'writes' | 'creates'}` | AddressClass

export type RateLimits = {
  /** Off: nothing is counted, and answers carry no headers of it. */
  enabled: boolean
  /** A project's keys together may do so many times what one key may, per environment. */
  keys_per_project: number
} & Record<PolicyName, Policy>

/** The classes of a route that does not name its own. */
export function classesOf(method: string): readonly KeyClass[] {
  return method === 'GET' || method === 'HEAD' ? READS : WRITES
}
const READS = ['reads'] as const
const WRITES = ['writes'] as const

/** By class: the key's own bucket, then that of all keys of its project's environment. */
export type KeyBuckets = Record<KeyClass, [own: Bucket, shared: Bucket]>

const MAX_KEYS = 20_000

/**
 * The buckets of each key, made when it first asks. Forgotten ones come back as they are in the database. The keys of a
 * project share a bucket per environment and not per project: the two have policies of their own, and a load test must
 * never slow down what is live.
 */
export function createKeyBuckets(limits: RateLimits): (principal: Principal) => KeyBuckets {
  const byKey = new Map<string, KeyBuckets>()
  const byEnvironment = new Map<string, Record<KeyClass, Bucket>>()

  function policy(name: KeyClass, mode: Principal['mode']): Policy {
    return mode === 'live' || name === 'reads' ? limits[name] : limits[`test_${name}`]
  }

  function shared({ environment_id, mode }: Principal): Record<KeyClass, Bucket> {
    return remember(byEnvironment, environment_id, () =>
      forClasses((name) => {
        const { rate_per_second, burst } = policy(name, mode)
        const factor = limits.keys_per_project
        return createBucket({
          id: `${environment_id}:${name}`,
          environment_id,
          name: `project_${name}`,
          policy: { rate_per_second: rate_per_second * factor, burst: burst * factor },
          when_unsure: name === 'creates' ? 'refuse' : 'pass',
        })
      }),
    )
  }

  return (principal) => {
    const known = byKey.get(principal.key_id)
    if (known) return known
    return remember(byKey, principal.key_id, () => {
      const { key_id, environment_id, mode } = principal
      const together = shared(principal)
      return forClasses((name) => [
        createBucket({
          id: `${key_id}:${name}`,
          environment_id,
          name,
          policy: policy(name, mode),
          when_unsure: name === 'creates' ? 'refuse' : 'pass',
        }),
        together[name],
      ])
    })
  }
}

function forClasses<T>(make: (name: KeyClass) => T): Record<KeyClass, T> {
  return { reads: make('reads'), writes: make('writes'), creates: make('creates') }
}

/** The oldest make room. */
function remember<T>(map: Map<string, T>, id: string, make: () => T): T {
  const known = map.get(id)
  if (known) return known
  if (map.size >= MAX_KEYS) map.delete(map.keys().next().value!)
  const made = make()
  map.set(id, made)
  return made
}
