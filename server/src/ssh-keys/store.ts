import type { Static } from 'typebox'
import type { Query, Sql, Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { checkIfMatch } from '../http/etag.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError, notFound, validationFailed } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { timestamp } from '../lib/timestamp.ts'
import { parsePublicKey } from './public-key.ts'
import type { SshKey, SshKeyCreate, SshKeyUpdate } from './schema.ts'

export type SshKeyRow = {
  id: string
  ordinal: number
  name: string
  public_key: string
  fingerprint: string
  is_default: boolean
  created_at: Date
}

/** A row as the API returns it. */
export function showSshKey(row: SshKeyRow): Static<typeof SshKey> {
  const { id, name, public_key, fingerprint } = row
  return { id, name, public_key, fingerprint, default: row.is_default, created_at: timestamp(row.created_at) }
}

export async function listSshKeys(sql: Sql, environmentId: string, window: Window): Promise<SshKeyRow[]> {
  return sql<SshKeyRow[]>`select * from ssh_keys where environment_id = ${environmentId} ${windowSql(sql, window)}`
}

/** Throws `not_found`. */
export async function getSshKey(query: Query, environmentId: string, id: string): Promise<SshKeyRow> {
  const [row] = await query<SshKeyRow[]>`select * from ssh_keys where environment_id = ${environmentId} and id = ${id}`
  if (!row) throw notFound('SSH key', id)
  return row
}

/** The keys with these IDs, or all default keys; unknown IDs are ignored. */
export async function findKeys(
  query: Query,
  environmentId: string,
  ids: string[] | 'default',
): Promise<{ id: string; public_key: string }[]> {
  return query<{ id: string; public_key: string }[]>`
    select id, public_key from ssh_keys
    where environment_id = ${environmentId} and ${ids === 'default' ? query`is_default` : query`id = any(${ids})`}
    order by ordinal`
}

/** Throws `validation_failed` for an invalid key and `already_exists` for one that exists in the environment. */
export async function createSshKey(
  tx: Transaction,
  deps: Deps,
  { environment_id }: Pick<Principal, 'environment_id'>,
  body: Static<typeof SshKeyCreate>,
): Promise<SshKeyRow> {
  const key = parsePublicKey(body.public_key)
  if ('message' in key) {
    throw validationFailed([{ pointer: '/public_key', code: key.code, message: `public_key ${key.message}.` }])
  }
  const [row] = await tx<SshKeyRow[]>`
    insert into ssh_keys (environment_id, id, name, public_key, fingerprint, is_default, created_at)
    values (${environment_id}, ${newId('ssh', deps.random)}, ${body.name}, ${key.line}, ${key.fingerprint},
            ${body.default ?? false}, environment_now(${environment_id}))
    on conflict (environment_id, fingerprint) do nothing returning *`
  if (row) return row
  const [other] = await tx<{ id: string }[]>`
    select id from ssh_keys where environment_id = ${environment_id} and fingerprint = ${key.fingerprint}`
  throw new ApiError(
    'already_exists',
    `This SSH key already exists as ${other?.id}. Use that key, or update it with PUT.`,
    {
      extensions: { existing_id: other?.id },
    },
  )
}

/** Updates name and default; the key itself cannot be changed. */
export async function updateSshKey(
  tx: Transaction,
  { environment_id }: Pick<Principal, 'environment_id'>,
  id: string,
  change: Static<typeof SshKeyUpdate>,
  ifMatch: string | undefined,
): Promise<{ before: SshKeyRow; after: SshKeyRow }> {
  const before = await lockSshKey(tx, environment_id, id, ifMatch)
  const [after] = await tx<SshKeyRow[]>`
    update ssh_keys set name = ${change.name ?? before.name}, is_default = ${change.default ?? before.is_default}
    where environment_id = ${environment_id} and id = ${id} returning *`
  return { before, after: after! }
}

/** Deletes a key and returns its row. Existing instances keep the key. */
export async function deleteSshKey(
  tx: Transaction,
  { environment_id }: Pick<Principal, 'environment_id'>,
  id: string,
  ifMatch: string | undefined,
): Promise<SshKeyRow> {
  const row = await lockSshKey(tx, environment_id, id, ifMatch)
  await tx`delete from ssh_keys where environment_id = ${environment_id} and id = ${id}`
  return row
}

async function lockSshKey(
  tx: Transaction,
  environmentId: string,
  id: string,
  ifMatch: string | undefined,
): Promise<SshKeyRow> {
  const [row] = await tx<SshKeyRow[]>`
    select * from ssh_keys where environment_id = ${environmentId} and id = ${id} for update`
  if (!row) throw notFound('SSH key', id)
  checkIfMatch(ifMatch, showSshKey(row))
  return row
}
