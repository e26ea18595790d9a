import type { EventType } from '../events/catalog.ts'
import { downtimeSeconds } from './recovery.ts'
import type { InstanceRow } from './row.ts'

/** The `details` of an event, by its type; undefined when it has none. Pure. */
export function detailsOf(type: EventType, before: InstanceRow | null, after: InstanceRow): object | undefined {
  if (type === 'instance.scaled' && before)
    return { from: before.wanted_size_before ?? sizeOf(before), to: sizeOf(after) }
  const { recovery } = after
  if (!recovery) return undefined
  const { cause, attempts, detected_at } = recovery
  if (type === 'instance.recovering') return { cause, attempt: Math.max(1, attempts), detected_at }
  if (type !== 'instance.recovered') return undefined
  return { cause, attempt: attempts, downtime_seconds: downtimeSeconds(recovery), detected_at }
}

/** The desired size of an instance. */
export function sizeOf(row: InstanceRow): NonNullable<InstanceRow['wanted_size_before']> {
  const { wanted_plan: plan, wanted_vcpus: vcpus } = row
  return { plan, vcpus, memory_bytes: row.wanted_memory_bytes, disk_bytes: row.wanted_disk_bytes }
}
