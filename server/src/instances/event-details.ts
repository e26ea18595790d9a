import type { EventType } from '../events/catalog.ts'
import type { InstanceRow } from './row.ts'

/** What an event tells besides the instance itself, by its type; undefined: nothing. Pure. */
export function detailsOf(type: EventType, _before: InstanceRow | null, after: InstanceRow): object | undefined {
  // A change that began before sizes were noted has none to tell.
  if (type !== 'instance.scaled' || !after.wanted_size_before) return undefined
  return { from: after.wanted_size_before, to: sizeOf(after) }
}

/** The wanted size of an instance. */
export function sizeOf(row: InstanceRow): NonNullable<InstanceRow['wanted_size_before']> {
  const { wanted_plan: plan, wanted_vcpus: vcpus } = row
  return { plan, vcpus, memory_bytes: row.wanted_memory_bytes, disk_bytes: row.wanted_disk_bytes }
}
