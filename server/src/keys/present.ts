import type { Static } from 'typebox'
import { timeOrNull, timestamp } from '../lib/timestamp.ts'
import type { KeyRow } from './row.ts'
import type { ApiKey } from './schema.ts'

const DAY_MS = 86_400_000

/**
 * A key as the API returns it, without the key itself.
 * @param rotationDays age above which a rotation is recommended; 0: never
 */
export function showKey(row: KeyRow, rotationDays: number): Static<typeof ApiKey> {
  const { id, name, prefix, scopes, status, allowed_addresses, created_by, replaces, replaced_by } = row
  const age_ms = row.now.getTime() - row.created_at.getTime()
  return {
    id,
    name,
    prefix,
    scopes,
    status,
    environment: row.mode,
    created_at: timestamp(row.created_at),
    age_days: Math.max(0, Math.floor(age_ms / DAY_MS)),
    rotation_recommended: rotationDays > 0 && status === 'active' && age_ms > rotationDays * DAY_MS,
    expires_at: timeOrNull(row.ends_at),
    last_used_at: timeOrNull(row.last_used_at),
    last_used_address: row.last_used_address,
    allowed_addresses,
    budget: showBudget(row),
    created_by,
    replaces,
    replaced_by,
    revoked_at: timeOrNull(row.revoked_at),
  }
}

/** The budget of a key as the API returns it. */
export function showBudget(row: KeyRow): Static<typeof ApiKey>['budget'] {
  const { max_instances, max_vcpus, ttl_seconds, used_instances, used_vcpus } = row
  if (row.budget_id === null) return null
  return { max_instances, max_vcpus, ttl_seconds, used_instances: used_instances!, used_vcpus: used_vcpus! }
}
