import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { purgeEvents } from '../events/store.ts'

/** Deletes events older than `events_days` of their environment's time. Returns how many. */
export function purgeEventsJob({ sql, config }: Deps): PeriodicJob {
  return { interval_seconds: 600, run: () => purgeEvents(sql, config.events_days) }
}
