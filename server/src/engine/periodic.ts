import type { Log } from '../lib/log.ts'
import type { Reconcile } from './loop.ts'

/** A job that runs at an interval. `jobs/` has one per file. */
export type PeriodicJob = {
  /** Seconds of real time between two runs. */
  interval_seconds: number
  /** Runs the job once, in bounded batches. Returns how many rows it changed. */
  run(): Promise<number>
}

/** Reconciles the keys `('job', <name>)`: as keys of the work table, each runs in one process at a time. */
export function periodicJobReconciler(log: Log, jobs: Record<string, PeriodicJob>): Reconcile {
  return async ({ id: name }) => {
    const job = jobs[name]
    if (!job) return { after_seconds: null }
    const changes = await job.run()
    if (changes > 0) log.info({ job: name, changes }, 'periodic job changed rows')
    return { after_seconds: job.interval_seconds }
  }
}
