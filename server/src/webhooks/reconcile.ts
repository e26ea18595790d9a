import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import type { Claim } from '../engine/work.ts'
import { BUDGET } from './attempt.ts'
import { cancelSome, deleteSome, secondsUntilDue } from './deliveries.ts'
import { sendDue } from './delivery-loop.ts'
import { disable } from './health.ts'
import { isEnabled } from './row.ts'
import { isOpen, readEndpoint } from './sender.ts'
import { deleteWebhookRow } from './store.ts'

/** Deliveries that one pass cancels or deletes. */
const BATCH = 1_000

/** Reconciles one webhook: sends due deliveries, cancels those of a disabled webhook, deletes those of a deleted one. */
export function webhookReconciler(deps: Deps, budget = BUDGET): Reconcile {
  return async (claimed) => {
    const { id } = claimed
    const endpoint = await readEndpoint(deps, id)
    if (endpoint === null || endpoint.row.wanted_gone) return remove(deps, id)
    if (isEnabled(endpoint.row) && endpoint.scopes === null) await disable(deps, claimed, endpoint, 'key_ended')
    if (!isOpen(endpoint)) return cancel(deps, claimed)
    await sendDue(deps, claimed, endpoint, budget)
    const after_seconds = await secondsUntilDue(deps.sql, id, claimed.now)
    return { after_seconds }
  }
}

async function remove({ sql }: Deps, id: string) {
  if ((await deleteSome(sql, id, BATCH)) === BATCH) return { after_seconds: 0 }
  await deleteWebhookRow(sql, id)
  return { after_seconds: null }
}

async function cancel(deps: Deps, claimed: Claim) {
  const count = await cancelSome(deps, claimed, BATCH)
  return { after_seconds: count === BATCH ? 0 : null }
}
