import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'
import { needsWork as webhookNeedsWork } from '../webhooks/deliveries.ts'
import { purgeDeliveriesJob } from './purge-deliveries.ts'
import { purgeEventsJob } from './purge-events.ts'
import { purgeRecoveriesJob } from './purge-recoveries.ts'
import { purgeResponsesJob } from './purge-responses.ts'
import { recountBudgetsJob } from './recount-budgets.ts'
import { releaseAddressesJob } from './release-addresses.ts'
import { reportExpiringKeysJob } from './report-expiring-keys.ts'
import { requeueMissingJob } from './requeue-missing.ts'
import { rotateRequestLogJob } from './rotate-request-log.ts'

/** THE LIST of periodic jobs, by the ID of their key. All of them work across tenants. */
export function periodicJobs(deps: Deps): Record<string, PeriodicJob> {
  return {
    'purge-deliveries': purgeDeliveriesJob(deps),
    'purge-events': purgeEventsJob(deps),
    'purge-recoveries': purgeRecoveriesJob(deps),
    'purge-responses': purgeResponsesJob(deps),
    'recount-budgets': recountBudgetsJob(deps),
    'release-addresses': releaseAddressesJob(deps),
    'report-expiring-keys': reportExpiringKeysJob(deps),
    'requeue-instances': requeueMissingJob(deps, { kind: 'instance', table: 'instances', interval_seconds: 600 }),
    'requeue-projects': requeueMissingJob(deps, {
      kind: 'project',
      table: 'projects',
      interval_seconds: 600,
      needsWork: deps.sql`r.wanted_gone_at is not null`,
      environment_id: 'env_system',
    }),
    'requeue-webhooks': requeueMissingJob(deps, {
      kind: 'webhook',
      table: 'webhooks',
      interval_seconds: 60,
      needsWork: webhookNeedsWork(deps.sql),
    }),
    'rotate-request-log': rotateRequestLogJob(deps),
  }
}
