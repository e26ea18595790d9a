import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { purgeResponses } from '../http/idempotency.ts'

/** Deletes stored responses whose Idempotency-Key has expired. Returns how many. */
export function purgeResponsesJob({ sql }: Deps): PeriodicJob {
  return { interval_seconds: 600, run: () => purgeResponses(sql) }
}
