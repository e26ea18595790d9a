/**
 * Budgets of keys. A budget's row holds what is used of it, and a create locks the row, so parallel creates never exceed
 * it. A budget inside another locks both, the outer one first, so two creates cannot deadlock. A transaction that locks an
 * instance's row locks the budgets after it.
 */
import type { Config } from '../config.ts'
import type { Query, Sql, Transaction } from '../db/database.ts'
import { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { BudgetExceeded } from '../lib/insufficient-capacity.ts'
import type { Random } from '../lib/random.ts'
import { type Budget, type Exceeded, exceededLimit, type Limits, shortestTtl, type Use } from './limits.ts'

type BudgetRow = Budget & { id: string; lineage: string[] }

/** Creates a budget, inside another one when there is an `outer` lineage, and returns its ID. */
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
 * Reserves what instances need from a key's budget and from all budgets around it, in the caller's transaction. Throws
 * BudgetExceeded.
 * @param budgetId null: a key without a budget; nothing happens
 * @param requested the increase; negative releases
 * @returns the time-to-live of a new instance in seconds of its environment's time; null: unlimited
 */
export async function reserveBudget(
  tx: Transaction,
  config: Pick<Config, 'plans'>,
  budgetId: string | null,
  requested: Use,
): Promise<{ ttl_seconds: number | null }> {
  if (budgetId === null) return { ttl_seconds: null }
  const chain = await lockChain(tx, budgetId)
  const exceeded = exceededLimit(chain, requested)
  if (exceeded) throw budgetExceeded(config, chain, requested, exceeded)
  await addUse(tx, chain, requested)
  return { ttl_seconds: shortestTtl(chain) }
}

/**
 * Throws `not_in_budget` unless an instance was made with the budget of a key, or with one inside it.
 * @param budgetId null: a key without a budget, which is not restricted
 * @param madeWith the budget of the key that created the instance
 */
export async function checkInBudget(tx: Transaction, budgetId: string | null, madeWith: string | null): Promise<void> {
  if (budgetId === null) return
  const { count } = await tx`select from budgets where id = ${madeWith} and ${budgetId} = any(lineage)`
  if (count > 0) return
  const detail =
    'A key with a budget changes and terminates only instances that were created with its budget. Use another key.'
  throw new ApiError('not_in_budget', detail)
}

/** Releases what a terminated instance used. */
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

function budgetExceeded(
  config: Pick<Config, 'plans'>,
  chain: BudgetRow[],
  requested: Use,
  { resource, limit, used }: Exceeded,
): BudgetExceeded {
  const left = Math.max(0, limit - used)
  const never = requested[resource] > limit
  const perInstance = (plan: { vcpus: number }) => ({
    ...requested,
    vcpus: plan.vcpus * Math.max(1, requested.instances),
  })
  const unit = resource === 'vcpus' ? 'vCPUs' : 'instances'
  const detail = never
    ? `This request needs ${requested[resource]} ${unit}, and the budget of the key is ${limit}. Request less, or use another key.`
    : `This request needs ${requested[resource]} ${unit}, and the budget of the key has ${left} of ${limit} left. Terminate an instance of this budget, request less, or use another key.`
  return new BudgetExceeded(detail, {
    scope: 'key_budget',
    resource,
    limit,
    used,
    left,
    retryable: !never,
    alternatives: config.plans.filter((plan) => !exceededLimit(chain, perInstance(plan))).map((plan) => plan.id),
  })
}

/**
 * Corrects every budget whose usage differs from the sum of its instances, of all tenants. Returns how many. A create
 * holds the lock of its budget, so the sum under the lock is right.
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
