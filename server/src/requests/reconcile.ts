import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import { keepDays } from './store.ts'

/** Partitions are created days ahead, so the exact interval does not matter. */
const INTERVAL_SECONDS = 3600

/** Reconciles the single key `('request_log', 'days')`: creates the partitions of the next days and drops old ones. */
export function requestLogReconciler(deps: Deps): Reconcile {
  return async () => {
    // Not bound to a tenant: partitions contain the rows of all tenants.
    const changes = await keepDays(deps.sql, deps.config.request_log_days)
    if (changes > 0) deps.log.info({ changes }, 'created or dropped partitions of the request log')
    return { after_seconds: INTERVAL_SECONDS }
  }
}
