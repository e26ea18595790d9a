import type { Static } from 'typebox'
import { timeOrNull, timestamp } from '../lib/timestamp.ts'
import type { KeyRow } from './row.ts'
import type { ApiKey } from './schema.ts'

/** A key as the API returns it, without the key itself. */
export function showKey(row: KeyRow): Static<typeof ApiKey> {
  const { id, name, prefix, scopes, status, allowed_addresses, created_by, replaces, replaced_by } = row
  const { max_instances, max_vcpus, ttl_seconds, used_instances, used_vcpus } = row
  return {
    id,
    name,
    prefix,
    scopes,
    status,
    environment: row.mode,
    created_at: timestamp(row.created_at),
    expires_at: timeOrNull(row.ends_at),
    last_used_at: timeOrNull(row.last_used_at),
    last_used_address: row.last_used_address,
    allowed_addresses,
    budget:
      row.budget_id === null
        ? null
        : { max_instances, max_vcpus, ttl_seconds, used_instances: used_instances!, used_vcpus: used_vcpus! },
    created_by,
    replaces,
    replaced_by,
    revoked_at: timeOrNull(row.revoked_at),
  }
}
