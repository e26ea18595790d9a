/**
 * Making, changing, rotating and revoking keys. Each locks the caller's own key, too, in its transaction: one that was
 * revoked a moment ago, and is believed for a second more, makes no key that outlives it.
 */
import { insertBudget } from '../budgets/store.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps, Principal } from '../deps.ts'
import { checkIfMatch } from '../http/etag.ts'
import { ApiError, type FieldError, notFound, validationFailed } from '../lib/errors.ts'
import { timestamp } from '../lib/timestamp.ts'
import { canonicalRange } from './addresses.ts'
import { showKey } from './present.ts'
import { tooStrong, unauthorised } from './refusals.ts'
import type { KeyRow } from './row.ts'
import type { ApiKeyCreateBody, ApiKeyUpdateBody } from './schema.ts'
import type { Scope } from './scopes.ts'
import { changeKey, createKey, endKey, findKey, lockKeys, realNow, retireKey } from './store.ts'
import { type Excess, excess, type Power, within } from './strength.ts'

/** Budgets inside budgets: enough for any organisation, and an end for a program that goes on and on. */
const MOST_BUDGETS = 8

type Context = Pick<Deps, 'random' | 'secrets'>
type Target = { principal: Principal; id: string; if_match: string | undefined }

/** Makes a key in the caller's environment. Throws `validation_failed`, or `insufficient_scope` for a stronger one. */
export async function issueKey(
  tx: Transaction,
  deps: Context,
  principal: Principal,
  body: ApiKeyCreateBody,
): Promise<{ row: KeyRow; key: string }> {
  const { environment_id, mode } = principal
  const caller = activeCaller(await lockKeys(tx, environment_id, [principal.key_id]), principal)
  const given = readFields(body, await realNow(tx))
  const expires_at = given.expires_at === undefined ? caller.ends_at : given.expires_at
  const allowed = given.allowed_addresses === undefined ? caller.allowed_addresses : given.allowed_addresses
  const around = caller.budget_id === null ? null : caller
  const { limits, beyond } = within(around, body.budget ?? {})
  const power = { scopes: body.scopes, expires_at, allowed_addresses: allowed, budgets: caller.lineage }
  refuseStronger(powerOf(caller), power, true, beyond.map(budgetExcess))
  if (body.budget && caller.lineage.length >= MOST_BUDGETS) throw tooDeep()
  const budget_id = body.budget
    ? await insertBudget(tx, deps.random, environment_id, caller.lineage, limits)
    : caller.budget_id
  const made = await createKey(tx, deps.secrets, deps.random, {
    ...{ environment_id, mode, name: body.name, scopes: body.scopes, expires_at, allowed_addresses: allowed },
    ...{ budget_id, created_by: caller.id },
  })
  return { row: (await findKey(tx, environment_id, made.id))!, key: made.key }
}

/**
 * Makes a successor with the same name and power; both keys work for so many seconds. Throws `conflict` while the key
 * has a successor, or is one whose predecessor still works: never do three work in one place.
 */
export async function rotateKey(
  tx: Transaction,
  deps: Context,
  target: Target,
  overlapSeconds: number,
): Promise<{ row: KeyRow; key: string }> {
  return change(tx, target, async ({ key, caller }) => {
    if (key.status !== 'active') throw notActive(key)
    if (key.replaced_by !== null) {
      const detail = `This key was rotated already; ${key.replaced_by} takes its place. Rotate that one, or revoke it first if its text was lost.`
      throw new ApiError('conflict', detail, { extensions: { replaced_by: key.replaced_by } })
    }
    const before = key.replaces === null ? null : await findKey(tx, key.environment_id, key.replaces)
    if (before?.status === 'active') {
      const detail = `The key before this one, ${before.id}, works until ${timestamp(before.ends_at!)}. Revoke it, or wait until then.`
      throw new ApiError('conflict', detail, { extensions: { predecessor: before.id } })
    }
    await retireKey(tx, key.id, overlapSeconds)
    const { environment_id, mode, name, scopes, expires_at, allowed_addresses, budget_id } = key
    const made = await createKey(tx, deps.secrets, deps.random, {
      ...{ environment_id, mode, name, scopes, expires_at, allowed_addresses, budget_id },
      ...{ created_by: caller.id, replaces: key.id },
    })
    return { row: (await findKey(tx, environment_id, made.id))!, key: made.key }
  })
}

/** Changes name, scopes, expiry and addresses: neither before nor after may the key be stronger than the caller's. */
export async function updateKey(
  tx: Transaction,
  target: Target,
  body: ApiKeyUpdateBody,
): Promise<{ before: KeyRow; after: KeyRow }> {
  return change(tx, target, async ({ key, caller }) => {
    if (key.status !== 'active') throw notActive(key)
    refuseOtherBudget(key, body.budget)
    const shown = showKey(key)
    const { expires_at, ...rest } = body
    const given = readFields(expires_at === shown.expires_at ? rest : body, await realNow(tx))
    const columns = {
      ...(body.name !== undefined && { name: body.name }),
      ...(body.scopes !== undefined && { scopes: body.scopes }),
      ...(given.allowed_addresses !== undefined && { allowed_addresses: given.allowed_addresses }),
      ...(given.expires_at !== undefined && { expires_at: given.expires_at }),
    }
    const after = { ...key, ...columns }
    // What is not changed was allowed above; a key that is being retired may still be renamed by itself.
    const power = { ...powerOf(after), expires_at: given.expires_at === undefined ? caller.ends_at : given.expires_at }
    refuseStronger(powerOf(caller), power, true)
    await changeKey(tx, key.id, columns)
    return { before: key, after: (await findKey(tx, key.environment_id, key.id))! }
  })
}

/** Ends a key at once; answers what it was before and is now. Again is the same. */
export async function revokeKey(tx: Transaction, target: Target): Promise<{ before: KeyRow; after: KeyRow }> {
  return change(tx, target, async ({ key }) => {
    if (key.status === 'revoked') return { before: key, after: key }
    await endKey(tx, key.id)
    return { before: key, after: (await findKey(tx, key.environment_id, key.id))! }
  })
}

/** Locks both keys and refuses what the caller may not touch. `deps.keys.drop` it after the commit. */
async function change<T>(
  tx: Transaction,
  { principal, id, if_match }: Target,
  make: (keys: { key: KeyRow; caller: KeyRow }) => Promise<T>,
): Promise<T> {
  const rows = await lockKeys(tx, principal.environment_id, [principal.key_id, id])
  const caller = activeCaller(rows, principal)
  const key = rows.find((row) => row.id === id)
  if (!key) throw notFound('API key', id)
  if (key.id !== caller.id) refuseStronger(powerOf(caller), { ...powerOf(key), expires_at: key.expires_at }, false)
  checkIfMatch(if_match, showKey(key))
  return make({ key, caller })
}

function activeCaller(rows: KeyRow[], principal: Principal): KeyRow {
  const caller = rows.find((row) => row.id === principal.key_id)
  if (caller?.status !== 'active') throw unauthorised()
  return caller
}

const powerOf = (row: KeyRow): Power => ({
  scopes: row.scopes,
  expires_at: row.ends_at,
  allowed_addresses: row.allowed_addresses,
  budgets: row.lineage,
})

function refuseStronger(caller: Power, other: Power, inBody: boolean, more: Excess[] = []): void {
  const found = [...excess(caller, other), ...more]
  if (found.length === 0) return
  const missing = other.scopes.filter((scope: Scope) => !caller.scopes.includes(scope))
  throw tooStrong(found, missing, inBody)
}

function budgetExcess({ field, limit }: { field: string; limit: number }): Excess {
  const message = `The budget of your key has ${field} ${limit}, and this one lies within it.`
  return { field: `budget/${field}` as 'budget', message }
}

/** Times and ranges as they are stored. Throws `validation_failed` with all that is wrong. */
function readFields(
  body: { expires_at?: string | null; allowed_addresses?: string[] | null },
  now: Date,
): { expires_at?: Date | null; allowed_addresses?: string[] | null } {
  const errors: FieldError[] = []
  const fields: { expires_at?: Date | null; allowed_addresses?: string[] | null } = {}
  if (body.expires_at === null) fields.expires_at = null
  if (typeof body.expires_at === 'string') {
    const time = new Date(body.expires_at)
    const [code, rule] = Number.isNaN(time.getTime())
      ? ['invalid', 'is not a time that exists']
      : ['in_the_past', `must be later than now, ${timestamp(now)}`]
    if (!(time > now)) errors.push({ pointer: '/expires_at', code, message: `expires_at ${rule}` })
    fields.expires_at = time
  }
  if (body.allowed_addresses === null) fields.allowed_addresses = null
  if (Array.isArray(body.allowed_addresses)) {
    const ranges = body.allowed_addresses.map(canonicalRange)
    ranges.forEach((each, index) => {
      if (!('fault' in each)) return
      const message = `allowed_addresses/${index} ${each.fault}`
      errors.push({ pointer: `/allowed_addresses/${index}`, code: 'invalid', message })
    })
    fields.allowed_addresses = [...new Set(ranges.flatMap((each) => ('range' in each ? each.range : [])))]
  }
  if (errors.length > 0) throw validationFailed(errors)
  return fields
}

function refuseOtherBudget(key: KeyRow, given: unknown): void {
  if (given === undefined) return
  const limits = (budget: unknown) => {
    const { max_instances = null, max_vcpus = null, ttl_seconds = null } = (budget ?? {}) as Record<string, unknown>
    return JSON.stringify([budget === null, max_instances, max_vcpus, ttl_seconds])
  }
  if (limits(given) === limits(showKey(key).budget)) return
  const message = 'The budget of a key cannot be changed; leave it out, or make a new key.'
  throw new ApiError('immutable_field', message, {
    errors: [{ pointer: '/budget', code: 'immutable_field', message }],
  })
}

function notActive(key: KeyRow): ApiError {
  const detail = `The key is ${key.status}. Make a new one.`
  return new ApiError('invalid_state', detail, { extensions: { current_status: key.status, allowed_actions: [] } })
}

function tooDeep(): ApiError {
  const message = `Budgets lie within one another at most ${MOST_BUDGETS} deep; leave budget out to share that of your key.`
  return validationFailed([{ pointer: '/budget', code: 'too_deep', message }])
}
