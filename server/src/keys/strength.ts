/**
 * No key can make, change, rotate or revoke a stronger one. Strength is a partial order: a key is not stronger than
 * another when it is within the other in each of four ways. Pure.
 */
import type { Limits } from '../budgets/limits.ts'
import { contains } from './addresses.ts'
import type { Scope } from './scopes.ts'

export type Power = {
  scopes: readonly Scope[]
  /** Null: never. */
  expires_at: Date | null
  /** Canonical ranges; null: from everywhere. */
  allowed_addresses: readonly string[] | null
  /** Ids of the budgets that what it makes counts in, outermost first; empty: no budget. */
  budgets: readonly string[]
}

/** One way in which a key is beyond another; `index` where it is one entry of a list. */
export type Excess = {
  field: 'scopes' | 'expires_at' | 'allowed_addresses' | 'budget'
  index?: number
  /** A whole sentence for the user. */
  message: string
}

/** Everything in which `other` is beyond `caller`; empty: it is not stronger. */
export function excess(caller: Power, other: Power): Excess[] {
  return [...scopes(caller, other), ...expiry(caller, other), ...addresses(caller, other), ...budget(caller, other)]
}

function scopes(caller: Power, other: Power): Excess[] {
  return other.scopes.flatMap((scope, index) =>
    caller.scopes.includes(scope)
      ? []
      : [{ field: 'scopes' as const, index, message: `Your key has not the scope ${scope} itself.` }],
  )
}

function expiry(caller: Power, other: Power): Excess[] {
  if (caller.expires_at === null) return []
  if (other.expires_at !== null && other.expires_at <= caller.expires_at) return []
  return [{ field: 'expires_at', message: 'Your key ends sooner: expires_at may not be later than its own.' }]
}

function addresses(caller: Power, other: Power): Excess[] {
  const outer = caller.allowed_addresses
  if (outer === null) return []
  if (other.allowed_addresses === null) {
    const message = 'Your key may not be used from everywhere: allowed_addresses must be within its own.'
    return [{ field: 'allowed_addresses', message }]
  }
  return other.allowed_addresses.flatMap((range, index) => {
    if (outer.some((own) => contains(own, range))) return []
    const message = `Your key may not be used from ${range}: allowed_addresses must be within its own.`
    return [{ field: 'allowed_addresses' as const, index, message }]
  })
}

/** Within: the same budget, or one inside it. A budget beside it is no less strong, however small it is. */
function budget(caller: Power, other: Power): Excess[] {
  const own = caller.budgets.at(-1)
  if (own === undefined || other.budgets.includes(own)) return []
  return [{ field: 'budget', message: 'Your key has a budget that does not bind that key.' }]
}

const FIELDS = ['max_instances', 'max_vcpus', 'ttl_seconds'] as const

/** The limits of a budget within another: what was not asked for is as around it. `beyond`: fields that ask for more. */
export function within(
  around: Limits | null,
  asked: Partial<Limits>,
): { limits: Limits; beyond: { field: keyof Limits; limit: number }[] } {
  const limits: Limits = { max_instances: null, max_vcpus: null, ttl_seconds: null }
  const beyond: { field: keyof Limits; limit: number }[] = []
  for (const field of FIELDS) {
    const limit = around?.[field] ?? null
    limits[field] = asked[field] ?? limit
    if (limit !== null && limits[field]! > limit) beyond.push({ field, limit })
  }
  return { limits, beyond }
}
