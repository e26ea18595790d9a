/** Budgets and quotas of the fuzzer's tenants. */
import { insertBudget } from '../budgets/store.ts'
import type { World } from '../instances/testing-world.ts'
import { createKey } from '../keys/store.ts'
import { Finding } from './oracle.ts'
import type { Tenant } from './tenant.ts'

/** The scopes of the tenant, and a budget that a sequence can exhaust. */
export async function createBudgetKey({ deps, owner }: World, { principal }: Tenant) {
  const budget_id = await owner.begin((tx) =>
    insertBudget(tx, deps.random, principal.environment_id, [], { max_instances: 2, max_vcpus: 4, ttl_seconds: null }),
  )
  const { environment_id, mode, scopes } = principal
  const key = await createKey(owner, deps.secrets, deps.random, {
    environment_id,
    mode,
    name: 'budget',
    scopes,
    budget_id,
  })
  return { ...key, budget_id }
}

/** No quota and no budget is exceeded, and a budget counts what it has made. */
export async function checkLimits({ owner }: World, tenant: Tenant): Promise<void> {
  const { quotas } = (await tenant.call('GET', '/v2/limits')).body as { quotas: Quota[] }
  const exceeded = quotas.find(({ used, limit }) => limit !== null && used > limit)
  if (exceeded) throw new Finding(`the quota of ${exceeded.name} is exceeded: ${exceeded.used} of ${exceeded.limit}`)
  const budgets = await owner`
    select b.id, b.used_instances, b.max_instances, b.used_vcpus, b.max_vcpus from budgets b
    where b.environment_id = ${tenant.environment_id}
      and (b.used_instances > coalesce(b.max_instances, b.used_instances) or b.used_vcpus > coalesce(b.max_vcpus, b.used_vcpus)
        or b.used_instances <> (select count(*) from instances i join budgets own on own.id = i.budget_id
          where b.id = any(own.lineage) and i.status <> 'terminated'))`
  if (budgets.count > 0) throw new Finding(`a budget is exceeded or counts wrongly: ${JSON.stringify(budgets[0])}`)
}

type Quota = { name: string; used: number; limit: number | null }
