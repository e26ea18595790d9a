/**
 * Budgets of keys. What is used stands in the budget's row, and its lock is what makes a hundred parallel creates within
 * a budget of ten exactly ten. A budget inside another locks both, the outer one first, so nobody waits in a circle; who
 * has an instance's row locked takes the budgets after it.
 */
import type { Config } from '../config.ts'
import type { Query, Sql, Transaction } from '../db/database.ts'
import { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import { type Budget, type Limits, type Shortage, shortage, shortestLife, type Use } from './limits.ts'

type BudgetRow = Budget & { id: string; lineage: string[] }

/** Makes a budget, inside another one when there is an `outer` lineage, and answers its id. */
export async function insertBudget(
  tx: Transaction,
  random: Random,
  environmentId: string,
  outer: readonly string[],
  limits: Limits,
): Promise<string> {
  const id = newId('bud', random)
  await tx`
    insert into budgets (id, environment_id, lineage, max_instances, max_vcpus, ttl_seconds, created_at)
    values (${id}, ${environmentId}, ${[...outer, id]}, ${limits.max_instances}, ${limits.max_vcpus},
            ${limits.ttl_seconds}, now())`
  return id
}

/**
 * Takes what an instance needs from a key's budget and all around it, until the transaction's end for sure and from then
 * on until it is released. Throws `capacity_exhausted` with scope `key_budget`.
 * @param budgetId null: a key without a budget; nothing happens
 * @param wish what is needed in addition; negative gives back
 * @returns how many seconds of its environment's time a new instance may live; null: for ever
 */
export async function reserveBudget(
  tx: Transaction,
  config: Pick<Config, 'plans'>,
  budgetId: string | null,
  wish: Use,
): Promise<{ ttl_seconds: number | null }> {
  if (budgetId === null) return { ttl_seconds: null }
  const chain = await lockChain(tx, budgetId)
  const short = shortage(chain, wish)
  if (short) throw exhausted(config, chain, wish, short)
  await addUse(tx, chain, wish)
  return { ttl_seconds: shortestLife(chain) }
}

/** Gives back what an instance had; called when it is gone. */
export async function releaseBudget(tx: Transaction, budgetId: string | null, use: Use): Promise<void> {
  if (budgetId === null) return
  await addUse(tx, await lockChain(tx, budgetId), { instances: -use.instances, vcpus: -use.vcpus })
}

async function lockChain(tx: Transaction, budgetId: string): Promise<BudgetRow[]> {
  return tx<BudgetRow[]>`
    select b.* from budgets own join budgets b on b.id = any(own.lineage) where own.id = ${budgetId}
    order by cardinality(b.lineage) for no key update of b`
}

async function addUse(tx: Transaction, chain: BudgetRow[], use: Use): Promise<void> {
  await tx`
    update budgets set used_instances = greatest(0, used_instances + ${use.instances}),
      used_vcpus = greatest(0, used_vcpus + ${use.vcpus})
    where id = any(${chain.map(({ id }) => id)})`
}

function exhausted(config: Pick<Config, 'plans'>, chain: BudgetRow[], wish: Use, short: Shortage): ApiError {
  const { resource, limit, used } = short
  const left = Math.max(0, limit - used)
  const never = wish[resource] > limit
  const fits = (plan: { vcpus: number }) => !shortage(chain, { ...wish, vcpus: plan.vcpus })
  const things = resource === 'vcpus' ? 'vCPUs' : 'instances'
  const detail = never
    ? `This needs ${wish[resource]} ${things}, and the budget of the key has ${limit} in all. Take less, or use another key.`
    : `This needs ${wish[resource]} of ${things}, and the budget of the key has ${left} of ${limit} left. Terminate an instance that was made through it, take less, or use another key.`
  return new ApiError('capacity_exhausted', detail, {
    extensions: {
      ...{ scope: 'key_budget', resource, limit, used, left, retryable: !never },
      alternatives: config.plans.filter(fits).map((plan) => plan.id),
    },
  })
}

/**
 * Makes every budget say again what the instances' rows add up to, should it ever not. Of all tenants; part of the
 * sweep. What is being created holds its budget's lock, so the sum under the lock is the truth.
 */
export async function recountBudgets(sql: Sql): Promise<number> {
  const differing = await sql<{ id: string }[]>`
    select b.id from budgets b left join (${sums(sql)}) s on s.id = b.id
    where b.used_instances <> coalesce(s.instances, 0) or b.used_vcpus <> coalesce(s.vcpus, 0)`
  for (const { id } of differing) {
    await sql.begin(async (tx) => {
      await tx`select 1 from budgets where id = ${id} for no key update`
      await tx`
        update budgets b set used_instances = coalesce(s.instances, 0), used_vcpus = coalesce(s.vcpus, 0)
        from (select 1) as one left join (${sums(tx)}) s on s.id = ${id} where b.id = ${id}`
    })
  }
  return differing.length
}

const sums = (query: Query) => query`
  select counted.id, count(*)::integer as instances, sum(i.wanted_vcpus)::integer as vcpus
  from instances i join budgets b on b.id = i.budget_id cross join unnest(b.lineage) as counted(id)
  where i.budget_id is not null and i.status <> 'terminated' group by counted.id`
