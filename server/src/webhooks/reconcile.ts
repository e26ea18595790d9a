import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import type { Claim } from '../engine/work.ts'
import { BUDGET } from './attempt.ts'
import { cancelSome, removeSome, secondsUntilDue } from './deliveries.ts'
import { disable } from './health.ts'
import { pump } from './pump.ts'
import { isEnabled } from './row.ts'
import { isOpen, readEndpoint } from './sender.ts'
import { forgetWebhook } from './store.ts'

/** Deliveries that one look cancels or removes. */
const BATCH = 1_000

/** Looks at one webhook: sends what is due, cancels what is not to be sent any more, removes what was deleted. */
export function webhookReconciler(deps: Deps, budget = BUDGET): Reconcile {
  return async (claimed) => {
    const { id } = claimed
    const endpoint = await readEndpoint(deps, id)
    if (endpoint === null || endpoint.row.wanted_gone) return remove(deps, id)
    if (isEnabled(endpoint.row) && endpoint.scopes === null) await disable(deps, claimed, endpoint, 'key_ended')
    if (!isOpen(endpoint)) return cancel(deps, claimed, endpoint.mode)
    await pump(deps, claimed, endpoint, budget)
    const after_seconds = await secondsUntilDue(deps.sql, id, claimed.now)
    return { after_seconds }
  }
}

async function remove({ sql }: Deps, id: string) {
  if ((await removeSome(sql, id, BATCH)) === BATCH) return { after_seconds: 0 }
  await forgetWebhook(sql, id)
  return { after_seconds: null }
}

async function cancel(deps: Deps, claimed: Claim, mode: 'live' | 'test') {
  const count = await cancelSome(deps, claimed, mode, BATCH)
  return { after_seconds: count === BATCH ? 0 : null }
}
