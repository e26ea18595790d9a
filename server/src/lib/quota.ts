/** Quotas of a project's environment, and their usage. Pure. */
import type { Size } from './capacity.ts'

/** What is counted, in the order in which exceeded quotas are reported. */
export const QUOTA_NAMES = [
  'instances',
  'vcpus',
  'memory_bytes',
  'disk_bytes',
  'public_ips',
  'images',
  'image_bytes',
] as const
export type QuotaName = (typeof QUOTA_NAMES)[number]

/** Amounts in use; a difference may be negative. */
export type Use = Record<QuotaName, number>
/** Null: no limit except for the capacity of the host. */
export type Quotas = Record<QuotaName, number | null>

/** A new object at each call, because callers add to it. */
export const nothingUsed = (): Use => Object.fromEntries(QUOTA_NAMES.map((name) => [name, 0])) as Use

/** The usage of an instance: its desired state, from its creation until it is terminated. */
export function useOf(row: {
  terminated_at: Date | null
  wanted_vcpus: number
  wanted_memory_bytes: number
  wanted_disk_bytes: number
  wanted_public_ip: string | null
}): Use {
  if (row.terminated_at) return nothingUsed()
  return {
    ...nothingUsed(),
    instances: 1,
    vcpus: row.wanted_vcpus,
    memory_bytes: row.wanted_memory_bytes,
    disk_bytes: row.wanted_disk_bytes,
    public_ips: row.wanted_public_ip === null ? 0 : 1,
  }
}

/** Adds the difference between `before` and `after` to `total`. */
export function addDifference(total: Use, before: Use, after: Use): void {
  for (const name of QUOTA_NAMES) total[name] += after[name] - before[name]
}

/** The first quota that `added` would exceed; null: none. A decrease is always allowed. */
export function lackingQuota(quotas: Quotas, used: Use, added: Use): QuotaName | null {
  return (
    QUOTA_NAMES.find((name) => {
      const limit = quotas[name]
      return limit !== null && added[name] > 0 && used[name] + added[name] > limit
    }) ?? null
  )
}

/** The configured quotas with the overrides of the project. */
export function effectiveQuotas(configured: Partial<Quotas>, own: Partial<Quotas>): Quotas {
  const pick = (name: QuotaName) => (name in own ? own[name]! : (configured[name] ?? null))
  return Object.fromEntries(QUOTA_NAMES.map((name) => [name, pick(name)])) as Quotas
}

const sizeOf = ({ vcpus, memory_bytes, disk_bytes }: Size): Size => ({ vcpus, memory_bytes, disk_bytes })

/** The plans of which one more instance is within the quotas. */
export function fittingPlans<P extends Size & { id: string }>(plans: P[], quotas: Quotas, used: Use): string[] {
  return plans
    .filter((plan) => lackingQuota(quotas, used, { ...nothingUsed(), ...sizeOf(plan), instances: 1 }) === null)
    .map((plan) => plan.id)
}
