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
import { projectReconciler } from './projects/reconcile.ts'
import { webhookReconciler } from './webhooks/reconcile.ts'

/** Worker slots for webhook endpoints; each spends most of its time waiting for the receiver. */
const WEBHOOK_CONCURRENCY = 200

/** The engine's pools. Webhooks have their own worker slots, so slow receivers delay no other kind. */
export function pools(deps: Deps): Pool[] {
  return [
    { reconcilers: reconcilers(deps) },
    { reconcilers: { webhook: bound(deps, webhookReconciler) }, concurrency: WEBHOOK_CONCURRENCY },
  ]
}

/** THE LIST of reconcilers, by the kind of work key. */
function reconcilers(deps: Deps): Reconcilers {
  return {
    instance: bound(deps, instanceReconciler),
    image: bound(deps, (own) => imageReconciler({ ...own, onImportEnd: wakeInstancesWaitingForImage })),
    // These three access several tenants.
    project: projectReconciler(deps),
    sweep: orphanSweepReconciler(deps.sql, deps.log, orphanSweeps(deps)),
    job: periodicJobReconciler(deps.log, periodicJobs(deps)),
  }
}

/** A reconciler whose `deps.sql` can access only the environment of the claimed key. */
function bound(deps: Deps, reconciler: (deps: Deps) => Reconcile): Reconcile {
  return (claimed) => reconciler({ ...deps, sql: deps.sql.as(claimed.environment_id) })(claimed)
}

/** One orphan sweep per driver. Each region has a driver for live and one for simulated machines. */
function orphanSweeps(deps: Deps): Record<string, OrphanSweep> {
  const modes = ['live', 'test'] as const
  return Object.fromEntries(
    deps.regions.flatMap((region) =>
      modes.map((mode) => [`${mode}:${region.id}`, instanceOrphanSweep(deps, region, mode)]),
    ),
  )
}

/** Wakes the periodic jobs, the orphan sweeps, and the catalogue images, which may be on the disk already. */
export async function wakeAtStart(deps: Deps): Promise<void> {
  for (const { id } of CATALOGUE) await wake(deps.sql, 'image', id, 'env_system')
  for (const name of Object.keys(orphanSweeps(deps))) await wake(deps.sql, 'sweep', name, 'env_system')
  for (const name of Object.keys(periodicJobs(deps))) await wake(deps.sql, 'job', name, 'env_system')
  deps.notifier.announce()
}

/** Wakes instances on a driver's hints. If a wake fails, the resync interval still makes the key due. */
export function watchDriver(deps: Pick<Deps, 'sql'>, engine: Engine, driver: Driver): void {
  driver.watch((id) => {
    wakeExisting(deps.sql, 'instance', id).then(engine.nudge, () => {})
  })
}
