import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { requeueInstances } from '../instances/orphans.ts'

/** Wakes instances that have no work row. Returns how many. */
export function requeueInstancesJob({ sql }: Deps): PeriodicJob {
  return { interval_seconds: 600, run: () => requeueInstances(sql) }
}
