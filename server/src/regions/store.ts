import type { Static } from 'typebox'
import type { Config, Plan } from '../config.ts'
import type { Query, Transaction } from '../db/database.ts'
import type { Region as ServedRegion } from '../deps.ts'
import type { Principal } from '../keys/principal.ts'
import { footprint, inWords, lacking, MACHINE_OVERHEAD_BYTES, NOTHING, type Size } from '../lib/capacity.ts'
import { ApiError } from '../lib/errors.ts'
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
  region: ServedRegion,
  mode: Principal['mode'],
): Promise<Static<typeof Region>> {
  const driver = region.drivers[mode]
  const total = driver.capacity()
  const capacity = total && { total, used: await usedCapacity(query, region.id) }
  return { id: region.id, name: region.name, status: 'available', hypervisor: driver.hypervisor(), capacity }
}

/**
 * Makes sure that an instance of this plan fits, and that it still will when the transaction commits: transactions that
 * reserve in one region wait for each other. Throws `capacity_exhausted`.
 * @param instance the instance that is to get the plan, whose present size then does not count; null for a new one
 */
export async function reserveCapacity(
  tx: Transaction,
  config: Pick<Config, 'plans'>,
  region: ServedRegion,
  mode: Principal['mode'],
  instance: { id: string } | null,
  plan: Plan,
): Promise<void> {
  const total = region.drivers[mode].capacity()
  if (total === null) return
  const never = lacking(total, NOTHING, footprint(plan))
  if (!never) await tx`select pg_advisory_xact_lock(hashtextextended(${`capacity ${region.id}`}, 0))`
  const used = never ? NOTHING : await usedCapacity(tx, region.id, instance?.id)
  const lack = never ?? lacking(total, used, footprint(plan))
  if (!lack) return
  const fitting = config.plans.filter((other) => !lacking(total, used, footprint(other))).map((other) => other.id)
  const needed = inWords(lack, footprint(plan)[lack])
  const detail = never
    ? `${plan.id} needs ${needed}, and ${region.id} has ${inWords(lack, total[lack])} in all. Take a smaller plan.`
    : `${plan.id} needs ${needed}, and ${region.id} has ${inWords(lack, Math.max(0, total[lack] - used[lack]))} left. Terminate an instance or take a smaller plan.`
  throw new ApiError('capacity_exhausted', detail, {
    extensions: {
      scope: never ? 'plan' : 'host',
      resource: lack,
      limit: total[lack],
      used: used[lack],
      retryable: !never,
      alternatives: fitting,
    },
  })
}
