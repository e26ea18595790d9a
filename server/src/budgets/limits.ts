/** What a budget allows, and whether there is something left. Pure. */

/** Null: not limited. */
export type Limits = { max_instances: number | null; max_vcpus: number | null; ttl_seconds: number | null }
export type Use = { instances: number; vcpus: number }
export type Budget = Limits & { used_instances: number; used_vcpus: number }

/** A limit of a budget that a wish would pass. */
export type Shortage = { resource: keyof Use; limit: number; used: number }

/** The first limit that the wish would pass, outermost budget first; null: there is room. What gives back always may. */
export function shortage(chain: readonly Budget[], wish: Use): Shortage | null {
  for (const budget of chain) {
    const limits: Shortage[] = [
      { resource: 'instances', limit: budget.max_instances ?? Infinity, used: budget.used_instances },
      { resource: 'vcpus', limit: budget.max_vcpus ?? Infinity, used: budget.used_vcpus },
    ]
    const short = limits.find(({ resource, limit, used }) => wish[resource] > 0 && used + wish[resource] > limit)
    if (short) return short
  }
  return null
}

/** The shortest time to live of a chain, in seconds; null: none has one. */
export function shortestLife(chain: readonly Limits[]): number | null {
  const lives = chain.flatMap(({ ttl_seconds }) => ttl_seconds ?? [])
  return lives.length === 0 ? null : Math.min(...lives)
}
