import type { EventType } from '../events/catalog.ts'
import { downtimeSeconds } from './recovery.ts'
import type { InstanceRow } from './row.ts'

/** What an event tells beside the instance itself; undefined: nothing. */
export function detailsOf(type: EventType, _before: InstanceRow | null, after: InstanceRow): object | undefined {
  const { recovery } = after
  if (!recovery) return undefined
  const { cause, attempts, detected_at } = recovery
  if (type === 'instance.recovering') return { cause, attempt: Math.max(1, attempts), detected_at }
  if (type === 'instance.recovered') {
    return { cause, attempt: attempts, downtime_seconds: downtimeSeconds(recovery), detected_at }
  }
  return undefined
}
