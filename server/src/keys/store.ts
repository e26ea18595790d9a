/** Every SQL statement on API keys. Expiry is in real time, which no client can freeze. */
import type { Query, Sql, Transaction } from '../db/database.ts'
import { type Window, windowSql } from '../http/list.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import { keyDigest, keyPrefix, newKey } from './format.ts'
import type { KeyRow, KeyStatus } from './row.ts'
import { SCOPES } from './scopes.ts'

/** A key to store. */
export type NewKey = {
  environment_id: string
  mode: 'live' | 'test'
  name: string
  scopes: readonly string[]
  expires_at?: Date | null
  allowed_addresses?: readonly string[] | null
  budget_id?: string | null
  created_by?: string | null
  replaces?: string | null
}

/** Stores a new key and returns its text, which is not stored. */
export async function createKey(
  query: Query,
  secrets: { pepper: Uint8Array },
  random: Random,
  fields: NewKey,
): Promise<{ id: string; key: string }> {
  const key = newKey(fields.mode, random)
  return { id: (await storeKey(query, secrets, random, key, fields))!, key }
}

/** Scopes of a project's first keys: all except `admin`. */
export const PROJECT_SCOPES = SCOPES.filter((scope) => scope !== 'admin')

/** Generates the keys of a new project's two environments, without storing them. */
export function newProjectKeys(random: Random): Record<'live' | 'test', string> {
  return { live: newKey('live', random), test: newKey('test', random) }
}

/** Stores a key with a given text. Null: it exists already and is left unchanged, even if it is revoked. */
export async function storeKey(
  query: Query,
  secrets: { pepper: Uint8Array },
  random: Random,
  key: string,
  fields: NewKey,
): Promise<string | null> {
  const { expires_at = null, allowed_addresses = null, budget_id = null, created_by = null, replaces = null } = fields
  const [row] = await query<{ id: string }[]>`
    insert into api_keys (id, environment_id, name, digest, prefix, scopes, created_at, expires_at, allowed_addresses,
      budget_id, created_by, replaces)
    values (${newId('key', random)}, ${fields.environment_id}, ${fields.name}, ${keyDigest(key, secrets.pepper)},
      ${keyPrefix(key)}, ${[...fields.scopes]}, now(), ${expires_at}, ${allowed_addresses}, ${budget_id},
      ${created_by}, ${replaces})
    on conflict (digest) do nothing returning id`
  return row?.id ?? null
}

const ends = (query: Query) => query`least(k.expires_at, k.retires_at)`
const status = (query: Query) => query`
  case when k.revoked_at <= now() then 'revoked' when ${ends(query)} <= now() then 'expired' else 'active' end`

const selectKeys = (query: Query) => query`
  select k.id, k.environment_id, e.mode, k.ordinal, k.name, k.prefix, k.scopes, k.created_at, k.expires_at,
    k.retires_at, ${ends(query)} as ends_at, k.revoked_at, ${status(query)} as status, now() as now, k.allowed_addresses,
    k.budget_id,
    coalesce(b.lineage, '{}') as lineage, b.max_instances, b.max_vcpus, b.ttl_seconds, b.used_instances, b.used_vcpus,
    k.created_by, k.replaces, k.last_used_at, host(k.last_used_address) as last_used_address,
    (select s.id from api_keys s where s.replaces = k.id
      and coalesce(least(s.expires_at, s.retires_at, s.revoked_at), 'infinity') > now() limit 1) as replaced_by
  from api_keys k join environments e on e.id = k.environment_id left join budgets b on b.id = k.budget_id`

/** One page of an environment's keys that have one of the statuses. */
export async function listKeys(
  query: Query,
  environmentId: string,
  statuses: readonly KeyStatus[],
  window: Window,
): Promise<KeyRow[]> {
  return query<KeyRow[]>`
    ${selectKeys(query)} where k.environment_id = ${environmentId} and ${status(query)} = any(${[...statuses]})
    ${windowSql(query, window)}`
}

/** Null if the environment has no key with this ID. */
export async function findKey(query: Query, environmentId: string, id: string): Promise<KeyRow | null> {
  const [row] = await query<KeyRow[]>`${selectKeys(query)} where k.environment_id = ${environmentId} and k.id = ${id}`
  return row ?? null
}

/**
 * Locks keys in the order of their IDs and then reads them. `for no key update` does not block the foreign key check of
 * an instance that one of them is creating.
 */
export async function lockKeys(tx: Transaction, environmentId: string, ids: string[]): Promise<KeyRow[]> {
  await tx`
    select 1 from api_keys where environment_id = ${environmentId} and id = any(${ids}) order by id for no key update`
  return tx<KeyRow[]>`${selectKeys(tx)} where k.environment_id = ${environmentId} and k.id = any(${ids})`
}

/** The real time of the transaction, which expiries are compared with. */
export async function realNow(query: Query): Promise<Date> {
  const [row] = await query<{ now: Date }[]>`select now()`
  return row!.now
}

/** Updates columns of a locked key. */
export async function changeKey(
  tx: Transaction,
  id: string,
  columns: Partial<Pick<KeyRow, 'name' | 'scopes' | 'expires_at' | 'allowed_addresses'>>,
): Promise<void> {
  if (Object.keys(columns).length > 0) await tx`update api_keys set ${tx(columns)} where id = ${id}`
}

/** Marks a key as revoked, with immediate effect. */
export async function markRevoked(tx: Transaction, id: string): Promise<void> {
  await tx`update api_keys set revoked_at = now() where id = ${id}`
}

/** A key to report, with its environment. */
export type ExpiringKey = Pick<KeyRow, 'id' | 'environment_id' | 'mode'>

/** An active key that ends within `days`, by an end that was not reported. The first two are conditions of an index. */
const isExpiring = (query: Query, days: number) => query`
  (k.revoked_at is null and ${ends(query)} is distinct from k.observed_ends_at
    and ${ends(query)} > now() and ${ends(query)} <= now() + make_interval(days => ${days}))`

/** Keys of all tenants that end within `days` and are to be reported, the next to end first. */
export async function expiringKeys(sql: Sql, days: number, limit: number): Promise<ExpiringKey[]> {
  return sql<ExpiringKey[]>`
    select k.id, k.environment_id, e.mode from api_keys k join environments e on e.id = k.environment_id
    where ${isExpiring(sql, days)} order by ${ends(sql)} limit ${limit}`
}

/** Stores the ends of those locked keys that are still to be reported. Returns the IDs of these keys. */
export async function markReported(tx: Transaction, ids: string[], days: number): Promise<string[]> {
  const marked = await tx<{ id: string }[]>`
    update api_keys k set observed_ends_at = ${ends(tx)} where k.id = any(${ids}) and ${isExpiring(tx, days)} returning k.id`
  return marked.map(({ id }) => id)
}

/** Revokes all keys of an environment, because its project is being deleted. Returns the IDs of those that were not. */
export async function revokeAllKeys(tx: Transaction, environmentId: string): Promise<string[]> {
  const rows = await tx<{ id: string }[]>`
    update api_keys set revoked_at = now()
    where id in (
      select id from api_keys where environment_id = ${environmentId} and revoked_at is null order by id for no key update)
    returning id`
  return rows.map(({ id }) => id)
}

/** Limits the remaining lifetime of a key to `seconds`; never extends it. */
export async function retireKey(tx: Transaction, id: string, seconds: number): Promise<void> {
  await tx`
    update api_keys set retires_at = least(retires_at, now() + make_interval(secs => ${seconds})) where id = ${id}`
}

/** The scopes of a key or of its newest active successor; null if none of them is active. */
export async function currentScopes(query: Query, environmentId: string, id: string): Promise<string[] | null> {
  const [row] = await query<{ scopes: string[] }[]>`
    with recursive rotation as (
      select k.* from api_keys k where k.environment_id = ${environmentId} and k.id = ${id}
      union
      select s.* from api_keys s join rotation r on s.environment_id = r.environment_id and s.replaces = r.id
    )
    select scopes from rotation
    where coalesce(least(expires_at, retires_at, revoked_at), 'infinity') > now() order by ordinal desc limit 1`
  return row?.scopes ?? null
}

/** Whether a key is the other one or its successor by rotation, also of several rotations. */
export async function succeeds(
  query: Query,
  environmentId: string,
  id: string,
  other: string | null,
): Promise<boolean> {
  const { count } = await query`
    with recursive earlier as (
      select id, replaces from api_keys where environment_id = ${environmentId} and id = ${id}
      union
      select k.id, k.replaces from api_keys k join earlier e on k.environment_id = ${environmentId} and k.id = e.replaces
    )
    select from earlier where id = ${other}`
  return count > 0
}

/** One use of a key. */
export type KeyUse = { key_id: string; address: string | null }

/** Records uses of keys of all tenants in one statement, at most one per key and minute. Locks in the order of lockKeys. */
export async function recordUses(sql: Sql, uses: KeyUse[]): Promise<void> {
  await sql`
    with u as (
      select k.id, u.address
      from unnest(${uses.map((use) => use.key_id)}::text[], ${uses.map((use) => use.address)}::inet[]) as u(id, address)
        join api_keys k on k.id = u.id
      where coalesce(k.last_used_at, '-infinity') < now() - interval '59 seconds'
      order by k.id for no key update of k
    )
    update api_keys k set last_used_at = now(), last_used_address = u.address from u where k.id = u.id`
}
