import type { Deps } from './deps.ts'
import type { Driver } from './drivers/driver.ts'
import type { Engine, Reconcile, Reconcilers } from './engine/loop.ts'
import { type OrphanSweep, orphanSweepReconciler } from './engine/orphan-sweep.ts'
import { periodicJobReconciler } from './engine/periodic.ts'
import type { Pool } from './engine/pools.ts'
import { wake, wakeExisting } from './engine/work.ts'
import { CATALOGUE } from './images/catalog.ts'
import { imageReconciler } from './images/reconcile.ts'
import { instanceOrphanSweep } from './instances/orphans.ts'
import { instanceReconciler } from './instances/reconcile.ts'
import { wakeInstancesWaitingForImage } from './instances/store.ts'
import { periodicJobs } from './jobs/all.ts'
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
    // These two work across tenants.
    sweep: orphanSweepReconciler(deps.sql, deps.log, orphanSweeps(deps)),
    job: periodicJobReconciler(deps.log, periodicJobs(deps)),
  }
}

/** A reconciler whose `deps.sql` reads and writes nothing but the environment of the key that it looks at. */
function bound(deps: Deps, reconciler: (deps: Deps) => Reconcile): Reconcile {
  return (claimed) => reconciler({ ...deps, sql: deps.sql.as(claimed.environment_id) })(claimed)
}

/** One orphan sweep per driver: each region has a driver of live and one of simulated machines. */
function orphanSweeps(deps: Deps): Record<string, OrphanSweep> {
  const modes = ['live', 'test'] as const
  return Object.fromEntries(
    deps.regions.flatMap((region) =>
      modes.map((mode) => [`${mode}:${region.id}`, instanceOrphanSweep(deps, region, mode)]),
    ),
  )
}

/** At every start, wakes the periodic jobs, the orphan sweeps, and the catalogue images, which may be on the disk already. */
export async function wakeAtStart(deps: Deps): Promise<void> {
  for (const { id } of CATALOGUE) await wake(deps.sql, 'image', id, 'env_system')
  for (const name of Object.keys(orphanSweeps(deps))) await wake(deps.sql, 'sweep', name, 'env_system')
  for (const name of Object.keys(periodicJobs(deps))) await wake(deps.sql, 'job', name, 'env_system')
  deps.notifier.announce()
}

/** Wakes instances at a driver's hints. A hint that cannot be written is lost; the next pass is due anyway. */
export function watchDriver(deps: Pick<Deps, 'sql'>, engine: Engine, driver: Driver): void {
  driver.watch((id) => {
    wakeExisting(deps.sql, 'instance', id).then(engine.nudge, () => {})
  })
}
