import type { Deps } from './deps.ts'
import type { Driver } from './drivers/driver.ts'
import type { Engine, Reconcile, Reconcilers } from './engine/loop.ts'
import type { Pool } from './engine/pools.ts'
import { type Sweep, sweepReconciler } from './engine/sweep.ts'
import { wake, wakeExisting } from './engine/work.ts'
import { purgeEvents } from './events/store.ts'
import { purgeResponses } from './http/idempotency.ts'
import { CATALOGUE } from './images/catalog.ts'
import { imageReconciler } from './images/reconcile.ts'
import { instanceReconciler } from './instances/reconcile.ts'
import { purgeRecoveries } from './instances/recoveries.ts'
import { wakeInstancesWaitingForImage } from './instances/store.ts'
import { instanceSweep } from './instances/sweep.ts'
import { requestLogReconciler } from './requests/reconcile.ts'
import { purgeDeliveries } from './webhooks/deliveries.ts'
import { webhookReconciler } from './webhooks/reconcile.ts'

/** Endpoints that are sent to at the same time: most of the time of each is waiting. */
const ENDPOINTS_AT_ONCE = 200

/** The pools of the engine. What waits for machines of others has places of its own, so it holds up nothing here. */
export function pools(deps: Deps): Pool[] {
  return [
    { reconcilers: reconcilers(deps) },
    { reconcilers: { webhook: bound(deps, webhookReconciler) }, concurrency: ENDPOINTS_AT_ONCE },
  ]
}

/** THE LIST of reconcilers: kind of key → who looks at it. */
function reconcilers(deps: Deps): Reconcilers {
  return {
    instance: bound(deps, instanceReconciler),
    image: bound(deps, (own) => imageReconciler({ ...own, onImportEnd: wakeInstancesWaitingForImage })),
    // Both look at all that there is: these span tenants.
    request_log: requestLogReconciler(deps),
    sweep: sweepReconciler(deps.log, sweeps(deps)),
  }
}

/** A reconciler whose `deps.sql` reads and writes nothing but the environment of the key that it looks at. */
function bound(deps: Deps, reconciler: (deps: Deps) => Reconcile): Reconcile {
  return (claimed) => reconciler({ ...deps, sql: deps.sql.as(claimed.environment_id) })(claimed)
}

/** One sweep per driver: of each region, its live and its test world; and one of what only has a time to be kept. */
function sweeps(deps: Deps): Record<string, Sweep> {
  const modes = ['live', 'test'] as const
  return {
    ...Object.fromEntries(
      deps.regions.flatMap((region) =>
        modes.map((mode) => [`${mode}:${region.id}`, instanceSweep(deps, region, mode)]),
      ),
    ),
    deliveries: {
      ...NOTHING_LISTED,
      interval_seconds: 60,
      tidy: () => purgeDeliveries(deps.sql, deps.config.webhook_log_days, 10_000),
    },
    recoveries: { ...NOTHING_LISTED, interval_seconds: 3600, tidy: () => purgeRecoveries(deps.sql) },
    answers: { ...NOTHING_LISTED, interval_seconds: 600, tidy: () => purgeResponses(deps.sql) },
    events: {
      ...NOTHING_LISTED,
      interval_seconds: 600,
      tidy: () => purgeEvents(deps.sql, deps.config.events_days),
    },
  }
}

/** A sweep that only tidies. */
const NOTHING_LISTED: Omit<Sweep, 'interval_seconds' | 'tidy'> = {
  list: async () => [],
  unknown: async () => [],
  remove: async () => {},
}

/** At every start: the sweeps, and the catalogue's images, which may be on the disk already. */
export async function wakeAtStart(deps: Deps): Promise<void> {
  for (const { id } of CATALOGUE) await wake(deps.sql, 'image', id, 'env_system')
  for (const name of Object.keys(sweeps(deps))) await wake(deps.sql, 'sweep', name, 'env_system')
  await wake(deps.sql, 'request_log', 'days', 'env_system')
  deps.notifier.announce()
}

/** Turns a driver's hints into wakes. A hint that cannot be written is lost; the next look comes anyway. */
export function watchDriver(deps: Pick<Deps, 'sql'>, engine: Engine, driver: Driver): void {
  driver.watch((id) => {
    wakeExisting(deps.sql, 'instance', id).then(engine.nudge, () => {})
  })
}
