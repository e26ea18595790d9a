/**
 * No key can create, change, rotate or revoke a key whose privileges exceed its own. Privileges are a partial order: one
 * key is within another if it is in each of four fields. Pure.
 */
import type { Limits } from '../budgets/limits.ts'
import { contains } from '../lib/ip.ts'
import type { Scope } from './scopes.ts'

export type Privileges = {
  scopes: readonly Scope[]
  /** Null: never. */
  expires_at: Date | null
  /** Canonical ranges; null: not restricted. */
  allowed_addresses: readonly string[] | null
  /** IDs of the budgets that count its instances, outermost first; empty: no budget. */
  budgets: readonly string[]
}

/** A field in which a key exceeds another; `index` if it is an entry of a list. */
export type ExceededField = {
  field: 'scopes' | 'expires_at' | 'allowed_addresses' | 'budget'
  index?: number
  /** A complete sentence for the client. */
  message: string
}

/** The fields in which `other` exceeds `caller`; empty if `other` is within `caller`. */
export function exceeding(caller: Privileges, other: Privileges): ExceededField[] {
  return [...scopes(caller, other), ...expiry(caller, other), ...addresses(caller, other), ...budget(caller, other)]
}

function scopes(caller: Privileges, other: Privileges): ExceededField[] {
  return other.scopes.flatMap((scope, index) =>
    caller.scopes.includes(scope)
      ? []
      : [
          {
            field: 'scopes' as const,
            index,
            message: `You cannot grant scope ${scope} because your key does not have it.`,
          },
        ],
  )
}

function expiry(caller: Privileges, other: Privileges): ExceededField[] {
  if (caller.expires_at === null) return []
  if (other.expires_at !== null && other.expires_at <= caller.expires_at) return []
  return [{ field: 'expires_at', message: 'expires_at cannot be later than the expiry of your key.' }]
}

function addresses(caller: Privileges, other: Privileges): ExceededField[] {
  const outer = caller.allowed_addresses
  if (outer === null) return []
  if (other.allowed_addresses === null) {
    const message = 'allowed_addresses cannot be null because your key is restricted to IP addresses.'
    return [{ field: 'allowed_addresses', message }]
  }
  return other.allowed_addresses.flatMap((range, index) => {
    if (outer.some((own) => contains(own, range))) return []
    const message = `allowed_addresses cannot contain ${range} because your key does not allow it.`
    return [{ field: 'allowed_addresses' as const, index, message }]
  })
}

/** Within: the same budget, or a budget inside it. Any other budget exceeds it, whatever its limits are. */
function budget(caller: Privileges, other: Privileges): ExceededField[] {
  const own = caller.budgets.at(-1)
  if (own === undefined || other.budgets.includes(own)) return []
  return [{ field: 'budget', message: 'The budget of your key does not apply to that key.' }]
}

const FIELDS = ['max_instances', 'max_vcpus', 'ttl_seconds'] as const

/** The limits of a budget inside another: omitted limits are inherited. `exceeded`: limits greater than the outer ones. */
export function withinBudget(
  outerLimits: Limits | null,
  requested: Partial<Limits>,
): { limits: Limits; exceeded: { field: keyof Limits; limit: number }[] } {
  const limits: Limits = { max_instances: null, max_vcpus: null, ttl_seconds: null }
  const exceeded: { field: keyof Limits; limit: number }[] = []
  for (const field of FIELDS) {
    const limit = outerLimits?.[field] ?? null
    limits[field] = requested[field] ?? limit
    if (limit !== null && limits[field]! > limit) exceeded.push({ field, limit })
  }
  return { limits, exceeded }
}
