import type { Static } from 'typebox'
import type { Config, Plan } from '../config.ts'
import type { Query, Transaction } from '../db/database.ts'
import { belongsToOperator } from '../db/operator.ts'
import type { Region as ServedRegion } from '../deps.ts'
import type { Principal } from '../keys/principal.ts'
import {
  exceededDimension,
  footprint,
  inWords,
  MACHINE_OVERHEAD_BYTES,
  NOTHING,
  type Size,
  sumOf,
} from '../lib/capacity.ts'
import { CapacityExhausted } from '../lib/insufficient-capacity.ts'
import type { Region } from './schema.ts'

/** What the live instances of a region have reserved, those of all tenants, except one of them. */
export async function usedCapacity(query: Query, region: string, except: string | null = null): Promise<Size> {
  const [used] = await query<Size[]>`
    select * from used_capacity(${region}, ${except}, ${MACHINE_OVERHEAD_BYTES})`
  return used!
}

/** A region as a key of this mode sees it. */
export async function showRegion(
  query: Query,
  config: IsolationSettings,
  region: ServedRegion,
  owner: Owner,
): Promise<Static<typeof Region>> {
  const driver = region.drivers[owner.mode]
  const total = driver.capacity()
  const capacity = total && { total, used: await usedCapacity(query, region.id) }
  const status = (await isOpenTo(query, config, region, owner)) ? 'available' : 'unavailable'
  const [hypervisor, isolation] = [driver.hypervisor(), driver.isolation()]
  return { id: region.id, name: region.name, status, hypervisor, isolation, capacity }
}

type IsolationSettings = Pick<Config, 'allow_unfiltered_guests'>
type Owner = Pick<Principal, 'environment_id' | 'mode'>

/**
 * Whether instances of this environment may run in a region: where what guests send is not filtered, only those of the
 * operator's project, unless the operator allows others.
 */
export async function isOpenTo(
  query: Query,
  config: IsolationSettings,
  region: ServedRegion,
  { environment_id, mode }: Owner,
): Promise<boolean> {
  if (config.allow_unfiltered_guests || region.drivers[mode].isolation()?.egress !== 'unfiltered') return true
  return belongsToOperator(query, environment_id)
}

/** What `isOpenTo` means for a user, and what to do. */
export const unfilteredMessage = (region: string) =>
  `${region} does not filter what guests send, so only the project of its operator can run live instances there. The operator can make the host filter what guests send (see docs/running.md), or set allow_unfiltered_guests.`

/**
 * Checks that instances of these plans fit, and that they still fit when the transaction commits: transactions that
 * reserve capacity in one region wait for each other. Throws CapacityExhausted.
 * @param instance the instance that gets the plan, whose present size is not counted; null for new ones
 */
export async function reserveCapacity(
  tx: Transaction,
  config: Pick<Config, 'plans'>,
  region: ServedRegion,
  mode: Principal['mode'],
  instance: { id: string } | null,
  plans: readonly Plan[],
): Promise<void> {
  const total = region.drivers[mode].capacity()
  if (total === null || plans.length === 0) return
  const needed = sumOf(plans.map(footprint))
  const isTooLarge = exceededDimension(total, NOTHING, needed) !== null
  if (!isTooLarge) await tx`select pg_advisory_xact_lock(hashtextextended(${`capacity ${region.id}`}, 0))`
  const used = isTooLarge ? NOTHING : await usedCapacity(tx, region.id, instance?.id)
  const exceeded = exceededDimension(total, used, needed)
  if (!exceeded) return
  const fits = (plan: Plan) => exceededDimension(total, used, sumOf(plans.map(() => footprint(plan)))) === null
  const what = plans.length === 1 ? `${plans[0]!.id} needs` : `${plans.length} instances need`
  const need = `${what} ${inWords(exceeded, needed[exceeded])}`
  const left = Math.max(0, total[exceeded] - used[exceeded])
  const detail = isTooLarge
    ? `${need}, and ${region.id} has ${inWords(exceeded, total[exceeded])} in total. Use a smaller plan.`
    : `${need}, and ${region.id} has ${inWords(exceeded, left)} left. Terminate an instance or use a smaller plan.`
  throw new CapacityExhausted(detail, {
    scope: isTooLarge ? 'plan' : 'host',
    resource: exceeded,
    limit: total[exceeded],
    used: used[exceeded],
    retryable: !isTooLarge,
    alternatives: config.plans.filter(fits).map((plan) => plan.id),
  })
}
