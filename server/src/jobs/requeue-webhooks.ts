import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { requeueWebhooks } from '../webhooks/deliveries.ts'

/** Wakes webhooks that have pending deliveries and no work row. Returns how many. */
export function requeueWebhooksJob({ sql }: Deps): PeriodicJob {
  return { interval_seconds: 60, run: () => requeueWebhooks(sql) }
}
