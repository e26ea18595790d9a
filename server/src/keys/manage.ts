/**
 * Creates, updates, rotates and revokes keys. Each transaction also locks the caller's own key: a key that was revoked
 * but is still cached for up to a second cannot create a key that outlives it.
 */
import { invalidApiKey } from '../authority/refusals.ts'
import { insertBudget } from '../budgets/store.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Outbox } from '../events/outbox.ts'
import { checkIfMatch } from '../http/etag.ts'
import { ApiError, type FieldError, notFound, validationFailed } from '../lib/errors.ts'
import { canonicalRange } from '../lib/ip.ts'
import { timeOrNull, timestamp } from '../lib/timestamp.ts'
import { showBudget, showKey } from './present.ts'
import type { Principal } from './principal.ts'
import { type ExceededField, exceeding, type Privileges, withinBudget } from './privileges.ts'
import { privilegesExceeded } from './refusals.ts'
import type { KeyRow } from './row.ts'
import type { ApiKeyCreateBody, ApiKeyUpdateBody } from './schema.ts'
import type { Scope } from './scopes.ts'
import { changeKey, createKey, findKey, lockKeys, markRevoked, realNow, retireKey } from './store.ts'

/** Maximum nesting of budgets. */
const MAX_BUDGET_DEPTH = 8

type Context = Pick<Deps, 'random' | 'secrets'>
/** `rotation_days` is part of how the key is shown, with which `if_match` is compared. */
type Target = { principal: Principal; id: string; if_match: string | undefined; rotation_days: number }

/** Creates a key in the caller's environment. Throws `validation_failed`, or `insufficient_scope` if it exceeds the caller's. */
export async function issueKey(
  tx: Transaction,
  outbox: Outbox,
  deps: Context,
  principal: Principal,
  body: ApiKeyCreateBody,
): Promise<{ row: KeyRow; key: string }> {
  const { environment_id, mode } = principal
  const caller = activeCaller(await lockKeys(tx, environment_id, [principal.key_id]), principal)
  const given = parseFields(body, await realNow(tx))
  const expires_at = given.expires_at === undefined ? caller.ends_at : given.expires_at
  const allowed = given.allowed_addresses === undefined ? caller.allowed_addresses : given.allowed_addresses
  const outer = caller.budget_id === null ? null : caller
  const { limits, exceeded } = withinBudget(outer, body.budget ?? {})
  const requested = { scopes: body.scopes, expires_at, allowed_addresses: allowed, budgets: caller.lineage }
  rejectEscalation(privilegesOf(caller), requested, true, exceeded.map(budgetExceeded))
  if (body.budget && caller.lineage.length >= MAX_BUDGET_DEPTH) throw tooDeep()
  const budget_id = body.budget
    ? await insertBudget(tx, deps.random, environment_id, caller.lineage, limits)
    : caller.budget_id
  const made = await createKey(tx, deps.secrets, deps.random, {
    environment_id,
    mode,
    name: body.name,
    scopes: body.scopes,
    expires_at,
    allowed_addresses: allowed,
    budget_id,
    created_by: caller.id,
  })
  outbox.use.api_keys += 1
  return { row: (await findKey(tx, environment_id, made.id))!, key: made.key }
}

/**
 * Creates a successor with the same name and privileges; both keys are active for `overlapSeconds`. Throws `conflict`
 * while the key has a successor or an active predecessor, so that at most two keys of a rotation are active.
 */
export async function rotateKey(
  tx: Transaction,
  outbox: Outbox,
  deps: Context,
  target: Target,
  overlapSeconds: number,
): Promise<{ row: KeyRow; key: string }> {
  return change(tx, target, async ({ key, caller }) => {
    if (key.status !== 'active') throw notActive(key)
    if (key.replaced_by !== null) {
      const detail = `This key was already replaced by ${key.replaced_by}. Rotate that key instead, or revoke it if you have lost it and rotate this key again.`
      throw new ApiError('conflict', detail, { extensions: { replaced_by: key.replaced_by } })
    }
    const predecessor = key.replaces === null ? null : await findKey(tx, key.environment_id, key.replaces)
    if (predecessor?.status === 'active') {
      const detail = `The previous key, ${predecessor.id}, is active until ${timestamp(predecessor.ends_at!)}. Revoke it, or wait until then.`
      throw new ApiError('conflict', detail, { extensions: { predecessor: predecessor.id } })
    }
    await retireKey(tx, key.id, overlapSeconds)
    const { environment_id, mode, name, scopes, expires_at, allowed_addresses, budget_id } = key
    const made = await createKey(tx, deps.secrets, deps.random, {
      environment_id,
      mode,
      name,
      scopes,
      expires_at,
      allowed_addresses,
      budget_id,
      created_by: caller.id,
      replaces: key.id,
    })
    // The successor counts in place of this key, unless this key has retired before.
    if (key.retires_at !== null) outbox.use.api_keys += 1
    return { row: (await findKey(tx, environment_id, made.id))!, key: made.key }
  })
}

/** Updates a key whose privileges, before and after, are within the caller's. */
export async function updateKey(
  tx: Transaction,
  target: Target,
  body: ApiKeyUpdateBody,
): Promise<{ before: KeyRow; after: KeyRow }> {
  return change(tx, target, async ({ key, caller }) => {
    if (key.status !== 'active') throw notActive(key)
    rejectBudgetChange(key, body.budget)
    const { expires_at, ...rest } = body
    const given = parseFields(expires_at === timeOrNull(key.ends_at) ? rest : body, await realNow(tx))
    const columns = {
      ...(body.name !== undefined && { name: body.name }),
      ...(body.scopes !== undefined && { scopes: body.scopes }),
      ...(given.allowed_addresses !== undefined && { allowed_addresses: given.allowed_addresses }),
      ...(given.expires_at !== undefined && { expires_at: given.expires_at }),
    }
    const after = { ...key, ...columns }
    // An unchanged expiry was checked by `change`; a retiring key can still rename itself.
    const requested = {
      ...privilegesOf(after),
      expires_at: given.expires_at === undefined ? caller.ends_at : given.expires_at,
    }
    rejectEscalation(privilegesOf(caller), requested, true)
    await changeKey(tx, key.id, columns)
    return { before: key, after: (await findKey(tx, key.environment_id, key.id))! }
  })
}

/** Revokes a key immediately; returns it before and after. Idempotent. */
export async function revokeKey(tx: Transaction, target: Target): Promise<{ before: KeyRow; after: KeyRow }> {
  return change(tx, target, async ({ key }) => {
    if (key.status === 'revoked') return { before: key, after: key }
    await markRevoked(tx, key.id)
    return { before: key, after: (await findKey(tx, key.environment_id, key.id))! }
  })
}

/** Locks both keys and rejects a key that exceeds the caller's. The caller of this runs `deps.keys.drop` after the commit. */
async function change<T>(
  tx: Transaction,
  { principal, id, if_match, rotation_days }: Target,
  apply: (keys: { key: KeyRow; caller: KeyRow }) => Promise<T>,
): Promise<T> {
  const rows = await lockKeys(tx, principal.environment_id, [principal.key_id, id])
  const caller = activeCaller(rows, principal)
  const key = rows.find((row) => row.id === id)
  if (!key) throw notFound('API key', id)
  if (key.id !== caller.id)
    rejectEscalation(privilegesOf(caller), { ...privilegesOf(key), expires_at: key.expires_at }, false)
  checkIfMatch(if_match, showKey(key, rotation_days))
  return apply({ key, caller })
}

function activeCaller(rows: KeyRow[], principal: Principal): KeyRow {
  const caller = rows.find((row) => row.id === principal.key_id)
  if (caller?.status !== 'active') throw invalidApiKey()
  return caller
}

const privilegesOf = (row: KeyRow): Privileges => ({
  scopes: row.scopes,
  expires_at: row.ends_at,
  allowed_addresses: row.allowed_addresses,
  budgets: row.lineage,
})

function rejectEscalation(caller: Privileges, other: Privileges, inBody: boolean, more: ExceededField[] = []): void {
  const exceeded = [...exceeding(caller, other), ...more]
  if (exceeded.length === 0) return
  const missing = other.scopes.filter((scope: Scope) => !caller.scopes.includes(scope))
  throw privilegesExceeded(exceeded, missing, inBody)
}

function budgetExceeded({ field, limit }: { field: string; limit: number }): ExceededField {
  const message = `${field} cannot be greater than ${limit}, the limit of the budget of your key.`
  return { field: `budget/${field}` as 'budget', message }
}

/** Parses times and ranges. Throws `validation_failed` with all errors. */
function parseFields(
  body: { expires_at?: string | null; allowed_addresses?: string[] | null },
  now: Date,
): { expires_at?: Date | null; allowed_addresses?: string[] | null } {
  const errors: FieldError[] = []
  const fields: { expires_at?: Date | null; allowed_addresses?: string[] | null } = {}
  if (body.expires_at === null) fields.expires_at = null
  if (typeof body.expires_at === 'string') {
    const time = new Date(body.expires_at)
    const [code, rule] = Number.isNaN(time.getTime())
      ? ['invalid', 'is not a valid time']
      : ['in_the_past', `must be later than now, ${timestamp(now)}`]
    if (!(time > now)) errors.push({ pointer: '/expires_at', code, message: `expires_at ${rule}` })
    fields.expires_at = time
  }
  if (body.allowed_addresses === null) fields.allowed_addresses = null
  if (Array.isArray(body.allowed_addresses)) {
    const ranges = body.allowed_addresses.map(canonicalRange)
    ranges.forEach((each, index) => {
      if (!('error' in each)) return
      const message = `allowed_addresses/${index} ${each.error}`
      errors.push({ pointer: `/allowed_addresses/${index}`, code: 'invalid', message })
    })
    fields.allowed_addresses = [...new Set(ranges.flatMap((each) => ('range' in each ? each.range : [])))]
  }
  if (errors.length > 0) throw validationFailed(errors)
  return fields
}

function rejectBudgetChange(key: KeyRow, given: unknown): void {
  if (given === undefined) return
  const limits = (budget: unknown) => {
    const { max_instances = null, max_vcpus = null, ttl_seconds = null } = (budget ?? {}) as Record<string, unknown>
    return JSON.stringify([budget === null, max_instances, max_vcpus, ttl_seconds])
  }
  if (limits(given) === limits(showBudget(key))) return
  const message = 'The budget of a key cannot be changed. Omit budget, or create a new key.'
  throw new ApiError('immutable_field', message, {
    errors: [{ pointer: '/budget', code: 'immutable_field', message }],
  })
}

function notActive(key: KeyRow): ApiError {
  const detail = `The key is ${key.status}. Create a new key.`
  return new ApiError('invalid_state', detail, { extensions: { current_status: key.status, allowed_actions: [] } })
}

function tooDeep(): ApiError {
  const message = `Budgets can be nested at most ${MAX_BUDGET_DEPTH} deep. Omit budget to share the budget of your key.`
  return validationFailed([{ pointer: '/budget', code: 'too_deep', message }])
}
