import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { rotateDays } from '../requests/store.ts'

/** Creates the partitions of the next days and drops those older than `request_log_days`. Returns how many. */
export function rotateRequestLogJob({ sql, config }: Deps): PeriodicJob {
  return { interval_seconds: 3600, run: () => rotateDays(sql, config.request_log_days) }
}
