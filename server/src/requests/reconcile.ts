import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import { keepDays } from './store.ts'

/** Partitions are made days ahead: an hour more or less does not matter. */
const INTERVAL = 3600

/** Reconciles the one key `('request_log', 'days')`: partitions for the days to come are there, old ones are gone. */
export function requestLogReconciler(deps: Deps): Reconcile {
  return async () => {
    // Spans tenants: partitions hold the rows of all.
    const changes = await keepDays(deps.sql, deps.config.request_log_days)
    if (changes > 0) deps.log.info({ changes }, 'days of the request log were made or dropped')
    return { after_seconds: INTERVAL }
  }
}
