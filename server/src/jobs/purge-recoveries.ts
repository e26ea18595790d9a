import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { purgeRecoveries } from '../instances/recoveries.ts'

/** Deletes old records of recoveries. Returns how many. */
export function purgeRecoveriesJob({ sql }: Deps): PeriodicJob {
  return { interval_seconds: 3600, run: () => purgeRecoveries(sql) }
}
