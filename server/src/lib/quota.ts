/** What a project may use in one of its environments, and what it does use. Pure. */
import type { Size } from './capacity.ts'

/** What is counted, in the order in which a lack is told. */
export const QUOTA_NAMES = ['instances', 'vcpus', 'memory_bytes', 'disk_bytes', 'public_ips'] as const
export type QuotaName = (typeof QUOTA_NAMES)[number]

/** Amounts in use; a difference may be negative. */
export type Use = Record<QuotaName, number>
/** Null: no limit but the host's. */
export type Quotas = Record<QuotaName, number | null>

/** No difference; a new object each time, because it is added to. */
export const nothingUsed = (): Use => ({ instances: 0, vcpus: 0, memory_bytes: 0, disk_bytes: 0, public_ips: 0 })

/** What an instance counts for: what is wanted of it, from its creation until it is gone. */
export function useOf(row: {
  terminated_at: Date | null
  wanted_vcpus: number
  wanted_memory_bytes: number
  wanted_disk_bytes: number
  wanted_public_ip: string | null
}): Use {
  if (row.terminated_at) return nothingUsed()
  return {
    instances: 1,
    vcpus: row.wanted_vcpus,
    memory_bytes: row.wanted_memory_bytes,
    disk_bytes: row.wanted_disk_bytes,
    public_ips: row.wanted_public_ip === null ? 0 : 1,
  }
}

/** Adds what changes from one to the other. */
export function addDifference(total: Use, before: Use, after: Use): void {
  for (const name of QUOTA_NAMES) total[name] += after[name] - before[name]
}

/** The first quota that would be exceeded by adding; null when all hold. What only shrinks is never refused. */
export function lackingQuota(quotas: Quotas, used: Use, added: Use): QuotaName | null {
  return (
    QUOTA_NAMES.find((name) => {
      const limit = quotas[name]
      return limit !== null && added[name] > 0 && used[name] + added[name] > limit
    }) ?? null
  )
}

/** The operator's quotas with what differs for this project. */
export function effectiveQuotas(configured: Partial<Quotas>, own: Partial<Quotas>): Quotas {
  const pick = (name: QuotaName) => (name in own ? own[name]! : (configured[name] ?? null))
  return Object.fromEntries(QUOTA_NAMES.map((name) => [name, pick(name)])) as Quotas
}

/** Plans that still fit. */
export function fittingPlans<P extends Size & { id: string }>(plans: P[], quotas: Quotas, used: Use): string[] {
  return plans
    .filter((plan) => lackingQuota(quotas, used, { ...plan, instances: 1, public_ips: 0 }) === null)
    .map((plan) => plan.id)
}
