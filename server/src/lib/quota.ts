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
  'subnets',
  'webhooks',
  'api_keys',
] as const
export type QuotaName = (typeof QUOTA_NAMES)[number]

/**
 * Those whose usage is the number of rows, which are counted when one is added: the end of a key at its expiry changes no
 * row. The usage of the others is a counter, `used_…` in `environment_heads`.
 */
export const COUNTED_QUOTAS = ['subnets', 'webhooks', 'api_keys'] as const satisfies QuotaName[]
export type CountedQuota = (typeof COUNTED_QUOTAS)[number]
export const STORED_QUOTAS = QUOTA_NAMES.filter((name) => !(COUNTED_QUOTAS as readonly string[]).includes(name))

/** Amounts in use; a difference may be negative. */
export type Use = Record<QuotaName, number>
/** Null: no limit except for the capacity of the host. */
export type Quotas = Record<QuotaName, number | null>

const GIB = 2 ** 30
/** Quotas of both environments of every project except that of the operator. */
export const DEFAULT_QUOTAS: Readonly<Partial<Quotas>> = {
  instances: 20,
  vcpus: 40,
  memory_bytes: 64 * GIB,
  disk_bytes: 200 * GIB,
  public_ips: 10,
  image_bytes: 200 * GIB,
  subnets: 10,
  webhooks: 20,
  api_keys: 50,
}

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

/** Each quota is the project's own, otherwise the configured one, otherwise the default, which the operator's project lacks. */
export function effectiveQuotas(configured: Partial<Quotas>, own: Partial<Quotas>, ofOperator: boolean): Quotas {
  const layers = [own, configured, ofOperator ? {} : DEFAULT_QUOTAS]
  const pick = (name: QuotaName) => layers.find((layer) => name in layer)?.[name] ?? null
  return Object.fromEntries(QUOTA_NAMES.map((name) => [name, pick(name)])) as Quotas
}

const sizeOf = ({ vcpus, memory_bytes, disk_bytes }: Size): Size => ({ vcpus, memory_bytes, disk_bytes })

/** Quotas as text, such as `instances 20, memory_bytes 64 GiB`. */
export function showQuotas(quotas: Partial<Quotas>): string {
  const show = (name: QuotaName, limit: number) => `${name} ${name.endsWith('_bytes') ? `${limit / GIB} GiB` : limit}`
  return QUOTA_NAMES.flatMap((name) => (quotas[name] == null ? [] : show(name, quotas[name]))).join(', ')
}

/** What a client can do when a quota is reached. */
export function remedyOf(name: QuotaName): string {
  const remedies: Partial<Record<QuotaName, string>> = {
    images: 'Delete an image',
    image_bytes: 'Delete an image',
    subnets: 'Delete a subnet',
    webhooks: 'Delete a webhook',
    api_keys: 'Revoke an API key',
  }
  return remedies[name] ?? 'Terminate an instance'
}

/** The plans of which one more instance is within the quotas. */
export function fittingPlans<P extends Size & { id: string }>(plans: P[], quotas: Quotas, used: Use): string[] {
  return plans
    .filter((plan) => lackingQuota(quotas, used, { ...nothingUsed(), ...sizeOf(plan), instances: 1 }) === null)
    .map((plan) => plan.id)
}
