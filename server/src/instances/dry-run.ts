/** `?dry_run=true`: the preview of a write, computed by executing it and rolling back. */
import type { Static } from 'typebox'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { type Outbox, type Owner, readUse } from '../events/outbox.ts'
import { availability } from '../images/store.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'
import { showRegion } from '../regions/store.ts'
import type { Outcome } from '../writes/write.ts'
import { present } from './present.ts'
import type { InstanceRow } from './row.ts'
import type { InstancePlan } from './schema.ts'
import { stepsBetween } from './steps.ts'
import { readReadyTimes } from './store.ts'

/**
 * Describes a write within its transaction, before the rollback.
 * @param rows the row before and after the write; `before` is null for a new instance
 */
export async function previewWrite(
  deps: Deps,
  tx: Transaction,
  outbox: Outbox,
  owner: Owner,
  action: string,
  rows: { before: InstanceRow | null; after: InstanceRow; status: number },
): Promise<Outcome> {
  const { before, after, status } = rows
  const region = deps.regions.find((each) => each.id === after.region)!
  const { hypervisor, capacity } = await showRegion(tx, deps.config, region, owner)
  const { used, quotas } = await readUse(tx, deps, owner)
  const image = await availability(tx, after.image_id, owner.mode)
  const steps = stepsBetween(before, after, image.present)
  const boots = steps.includes('boot')
  const plan: Static<typeof InstancePlan> = {
    dry_run: true,
    action,
    would_answer: status,
    before: before && present(before, deps.config),
    after: present(after, deps.config),
    placement: { region: region.id, hypervisor },
    // The transaction has made its reservation already, so `used` includes this request.
    capacity,
    quotas: QUOTA_NAMES.map((name) => {
      return { name, limit: quotas[name], used: used[name], would_use: used[name] + outbox.use[name] }
    }),
    reboots: before?.status === 'running' && steps.includes('power_down') && boots,
    steps,
    ready_seconds_lately: boots ? await readReadyTimes(tx, owner.environment_id, after.image_id) : null,
  }
  return { status: 200, resource: after.id, before: null, after: null, body: plan }
}
