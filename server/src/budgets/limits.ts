/** What a budget allows, and what is exceeded. Pure. */

/** Null: not limited. */
export type Limits = { max_instances: number | null; max_vcpus: number | null; ttl_seconds: number | null }
export type Use = { instances: number; vcpus: number }
export type Budget = Limits & { used_instances: number; used_vcpus: number }

/** A limit of a budget that a request exceeds. */
export type Exceeded = { resource: keyof Use; limit: number; used: number }

/** The first limit that the request exceeds, outermost budget first; null: none. A decrease exceeds nothing. */
export function exceededLimit(chain: readonly Budget[], requested: Use): Exceeded | null {
  for (const budget of chain) {
    const limits: Exceeded[] = [
      { resource: 'instances', limit: budget.max_instances ?? Infinity, used: budget.used_instances },
      { resource: 'vcpus', limit: budget.max_vcpus ?? Infinity, used: budget.used_vcpus },
    ]
    const exceeded = limits.find(
      ({ resource, limit, used }) => requested[resource] > 0 && used + requested[resource] > limit,
    )
    if (exceeded) return exceeded
  }
  return null
}

/** The shortest time-to-live of a chain, in seconds; null: none has one. */
export function shortestTtl(chain: readonly Limits[]): number | null {
  const ttls = chain.flatMap(({ ttl_seconds }) => ttl_seconds ?? [])
  return ttls.length === 0 ? null : Math.min(...ttls)
}
