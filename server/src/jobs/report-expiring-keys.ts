import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { reportExpiringKeys } from '../keys/expiring.ts'

/** Emits `api_key.expiring` for keys that end within a week. Returns how many. */
export function reportExpiringKeysJob(deps: Deps): PeriodicJob {
  return { interval_seconds: 60, run: () => reportExpiringKeys(deps) }
}
