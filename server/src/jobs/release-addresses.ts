import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { releaseUnusedAddresses } from '../instances/orphans.ts'

/** Releases addresses that no instance holds. Returns how many. */
export function releaseAddressesJob({ sql }: Deps): PeriodicJob {
  return { interval_seconds: 60, run: () => releaseUnusedAddresses(sql) }
}
