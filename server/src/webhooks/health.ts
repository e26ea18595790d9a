/** What attempts say of their endpoint: noted with them, and where it is to be given up, done. */
import { ownEntry } from '../audit/store.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { record } from '../engine/record.ts'
import type { Claim } from '../engine/work.ts'
import { type Outcome, recordDeliveries } from './deliveries.ts'
import { GONE, type Health, healthAfter } from './plan.ts'
import { showWebhook } from './present.ts'
import { type DisabledReason, isEnabled } from './row.ts'
import type { Endpoint } from './sender.ts'
import { disableWebhook, findWebhook, noteHealth } from './store.ts'

/**
 * Notes outcomes in their order, and disables the endpoint where they say so; answers how it does, and whether it was
 * disabled.
 *
 * An endpoint that wants no more is disabled before that is noted: were it the other way round and the process ended in
 * between, its answer would be forgotten. One that has failed for too long says so again at its next failure.
 */
export async function noteOutcomes(
  deps: Deps,
  claimed: Claim,
  endpoint: Endpoint,
  outcomes: Outcome[],
  known: Health,
): Promise<{ health: Health; disabled: boolean }> {
  const isGone = outcomes.some(({ attempt }) => attempt?.response_status === GONE)
  if (isGone) await disable(deps, claimed, endpoint, 'gone')
  const { health, disable: reason } = await recordOutcomes(deps, claimed, endpoint.mode, outcomes, known)
  if (reason && !isGone) await disable(deps, claimed, endpoint, reason)
  return { health, disabled: reason !== null }
}

async function recordOutcomes(
  deps: Deps,
  claimed: Claim,
  mode: Endpoint['mode'],
  outcomes: Outcome[],
  known: Health,
): Promise<{ health: Health; disable: DisabledReason | null }> {
  const attempts = outcomes.flatMap(({ attempt }) => attempt ?? [])
  const isWell = known.failing_since === null && !known.throttled
  if (isWell && attempts.every(({ error }) => error === null)) {
    await recordDeliveries(deps, claimed, mode, outcomes, null)
    return { health: known, disable: null }
  }
  let health = known
  let disable: DisabledReason | null = null
  await recordDeliveries(deps, claimed, mode, outcomes, async (tx) => {
    const found = await findWebhook(tx, claimed.id)
    if (!found) return
    health = {
      failing_since: found.row.observed_failing_since,
      failed_at: found.row.observed_failed_at,
      throttled: found.row.observed_throttled,
    }
    for (const { error, response_status: status } of attempts) {
      const { disable: reason, ...next } = healthAfter(health, { succeeded: error === null, status }, found.now)
      health = next
      disable ??= reason
    }
    await noteHealth(tx, claimed.id, health)
  })
  return { health, disable }
}

/**
 * Disables an endpoint for a reason that was observed, with the event `webhook.disabled` and an audit entry. Nothing
 * happens when it is disabled already, so a pass that is repeated does it once.
 */
export async function disable(
  deps: Deps,
  claimed: Claim,
  { row: known, mode }: Endpoint,
  reason: DisabledReason,
): Promise<void> {
  const { id } = known
  const lock = (tx: Transaction) => findWebhook(tx, id)
  await record(deps, claimed, mode, lock, async (tx, outbox, { row, now }) => {
    if (!isEnabled(row)) return
    const before = showWebhook(row)
    const after = showWebhook(await disableWebhook(tx, row, reason, now))
    const data = { object: { object: 'webhook' as const, ...after }, details: { reason } }
    outbox.events.push({ type: 'webhook.disabled', resource_id: id, request_id: null, data })
    const { key_id } = row
    outbox.audit = ownEntry(deps, { key_id, action: 'disableWebhook', resource: id, code: reason, before, after })
  })
}
