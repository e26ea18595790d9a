import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { purgeDeliveries } from '../webhooks/deliveries.ts'

/** Deletes deliveries older than `webhook_log_days`, at most 10,000 per run. Returns how many. */
export function purgeDeliveriesJob({ sql, config }: Deps): PeriodicJob {
  return { interval_seconds: 60, run: () => purgeDeliveries(sql, config.webhook_log_days, 10_000) }
}
