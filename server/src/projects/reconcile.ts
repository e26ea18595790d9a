/**
 * Deletes a project whose deletion was requested. Its reconciler spans the tenant's environments: what it changes in one is
 * a transaction bound to that environment, and rows are deleted by functions of the database that accept no other project.
 */
import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import { withOutbox } from '../events/outbox.ts'
import { deleteAllImages } from '../images/store.ts'
import { terminateAll } from '../instances/store.ts'
import { deleteAllWebhooks, lockAllWebhooks } from '../webhooks/store.ts'
import { decide, type Remains, type Step } from './decide.ts'
import { countRemains, type Environment, finishDeletion, machinesOf, purgeRows, readDeletion } from './remains.ts'

/** Between two passes that wait for other reconcilers. */
const INTERVAL_SECONDS = 1
/** A project exists at least as long: other processes may cache its revoked keys, and return tokens of its rate limits. */
const SHORTEST_SECONDS = 5

export function projectReconciler(deps: Deps): Reconcile {
  return async ({ id, now }) => {
    const deletion = await readDeletion(deps.sql, id)
    if (deletion === null) return { after_seconds: null }
    const { environments, wanted_gone_at } = deletion
    const step = decide(await observe(deps, environments))
    if (step.do !== 'purge') {
      for (const environment of environments) await execute(deps, environment, step, now)
      return { after_seconds: INTERVAL_SECONDS }
    }
    if ((await purgeRows(deps.sql, id)) > 0) return { after_seconds: 0 }
    const early = SHORTEST_SECONDS - (now.getTime() - wanted_gone_at.getTime()) / 1000
    if (early > 0) return { after_seconds: early }
    await finishDeletion(deps.sql, id)
    deps.log.info({ project: id }, 'deleted a project')
    deps.notifier.changed(id)
    return { after_seconds: null }
  }
}

async function observe(deps: Deps, environments: Environment[]): Promise<Remains> {
  const all: Remains = { open: 0, instances: 0, machines: null, terminated: 0, images: 0, webhooks: 0 }
  for (const { environment_id } of environments) {
    const { open, instances, terminated, images, webhooks } = await countRemains(
      deps.sql.as(environment_id),
      environment_id,
    )
    all.open += open
    all.instances += instances
    all.terminated += terminated
    all.images += images
    all.webhooks += webhooks
  }
  return all.instances > 0 ? all : { ...all, machines: await listMachines(deps, environments) }
}

/** The machines of the project that the drivers of all regions list. */
async function listMachines(deps: Deps, environments: Environment[]): Promise<string[]> {
  const found: string[] = []
  for (const { environment_id, mode } of environments) {
    for (const { drivers } of deps.regions) {
      const listed = (await drivers[mode].list()).map(({ id }) => id)
      found.push(...(await machinesOf(deps.sql.as(environment_id), environment_id, listed)))
    }
  }
  return found
}

async function execute(
  deps: Deps,
  environment: Environment,
  step: Exclude<Step, { do: 'purge' }>,
  now: Date,
): Promise<void> {
  const { environment_id, mode } = environment
  switch (step.do) {
    case 'wait':
      return
    case 'close':
      return withOutbox(deps, environment, async (tx, outbox) => {
        await terminateAll(tx, { config: deps.config, outbox }, environment_id, null)
        await lockAllWebhooks(tx, environment_id)
        await deleteAllWebhooks(tx, outbox, environment_id)
      })
    case 'delete_images':
      return withOutbox(deps, environment, (tx, outbox) => deleteAllImages(tx, outbox, environment_id))
    case 'delete_machines':
      for (const id of await machinesOf(deps.sql.as(environment_id), environment_id, [...step.ids])) {
        for (const { drivers } of deps.regions) await drivers[mode].delete({ id, environment_id, now })
      }
  }
}
