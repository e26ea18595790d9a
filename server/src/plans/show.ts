import type { Static } from 'typebox'
import type { Plan as OfferedPlan } from '../config.ts'
import type { Capacity } from '../drivers/driver.ts'
import { exceededDimension, footprint, inWords, NOTHING } from '../lib/capacity.ts'
import type { Plan } from './schema.ts'

/** A plan as the API shows it. Pure. @param regions what each region holds in all; null without limit */
export function showPlan(plan: OfferedPlan, regions: { id: string; capacity: Capacity }[]): Static<typeof Plan> {
  const needed = footprint(plan)
  const reasons = regions.map(({ id, capacity }) => {
    const lack = capacity && exceededDimension(capacity, NOTHING, needed)
    return (
      lack &&
      `${id} has ${inWords(lack, capacity[lack])} for instances, and ${plan.id} needs ${inWords(lack, needed[lack])}.`
    )
  })
  const available = reasons.includes(null)
  const { id, vcpus, memory_bytes, disk_bytes } = plan
  return { id, vcpus, memory_bytes, disk_bytes, available, unavailable_reason: available ? null : reasons.join(' ') }
}
