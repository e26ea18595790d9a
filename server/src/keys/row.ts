import type { Limits } from '../budgets/limits.ts'
import type { Scope } from './scopes.ts'

export const KEY_STATUSES = ['active', 'expired', 'revoked'] as const
export type KeyStatus = (typeof KEY_STATUSES)[number]

/** A row of `api_keys` with its budget, and its status at the time of the query. All times are real time. */
export type KeyRow = {
  id: string
  environment_id: string
  mode: 'live' | 'test'
  ordinal: number
  name: string
  prefix: string
  scopes: Scope[]
  created_at: Date
  /** As requested; null: never. */
  expires_at: Date | null
  /** End of the overlap with its successor; null if it has none. */
  retires_at: Date | null
  /** The earlier of the two. */
  ends_at: Date | null
  revoked_at: Date | null
  status: KeyStatus
  /** The time of the query. */
  now: Date
  allowed_addresses: string[] | null
  budget_id: string | null
  /** IDs of the budgets that count its instances, outermost first. */
  lineage: string[]
  created_by: string | null
  replaces: string | null
  /** The active successor. */
  replaced_by: string | null
  last_used_at: Date | null
  last_used_address: string | null
} & { [field in keyof Limits]: number | null } & { used_instances: number | null; used_vcpus: number | null }
