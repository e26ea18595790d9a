/** Records the outcomes of deliveries with the health of their endpoint, and disables an endpoint that keeps failing. */
import { ownEntry } from '../audit/store.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { record } from '../engine/record.ts'
import type { Claim } from '../engine/work.ts'
import { type Outcome, recordDeliveries } from './deliveries.ts'
import { showWebhook } from './present.ts'
import { GONE, type Health, healthAfter } from './retry-schedule.ts'
import { type DisabledReason, isEnabled } from './row.ts'
import type { Endpoint } from './sender.ts'
import { disableWebhook, findWebhook, updateHealth } from './store.ts'

/**
 * Records outcomes in order and disables the endpoint if they require it. Returns its health and whether it was disabled.
 *
 * An endpoint that returned 410 is disabled before the outcome is recorded: otherwise a crash between the two would lose
 * the response. An endpoint that has failed for too long needs no such order, because its next failure disables it.
 */
export async function recordOutcomes(
  deps: Deps,
  claimed: Claim,
  endpoint: Endpoint,
  outcomes: Outcome[],
  known: Health,
): Promise<{ health: Health; disabled: boolean }> {
  const isGone = outcomes.some(({ attempt }) => attempt?.response_status === GONE)
  if (isGone) await disable(deps, claimed, endpoint, 'gone')
  const { health, disable: reason } = await writeOutcomes(deps, claimed, outcomes, known)
  if (reason && !isGone) await disable(deps, claimed, endpoint, reason)
  return { health, disabled: reason !== null }
}

async function writeOutcomes(
  deps: Deps,
  claimed: Claim,
  outcomes: Outcome[],
  known: Health,
): Promise<{ health: Health; disable: DisabledReason | null }> {
  const attempts = outcomes.flatMap(({ attempt }) => attempt ?? [])
  const isHealthy = known.failing_since === null && !known.throttled
  if (isHealthy && attempts.every(({ error }) => error === null)) {
    await recordDeliveries(deps, claimed, outcomes, null)
    return { health: known, disable: null }
  }
  let health = known
  let disable: DisabledReason | null = null
  await recordDeliveries(deps, claimed, outcomes, async (tx) => {
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
    await updateHealth(tx, claimed.id, health)
  })
  return { health, disable }
}

/**
 * Disables an endpoint for an observed reason, with the event `webhook.disabled` and an audit entry. No effect if the
 * endpoint is already disabled, so a repeated pass disables it once.
 */
export async function disable(
  deps: Deps,
  claimed: Claim,
  { row: known }: Endpoint,
  reason: DisabledReason,
): Promise<void> {
  const { id } = known
  const lock = (tx: Transaction) => findWebhook(tx, id)
  await record(deps, claimed, lock, async (tx, outbox, { row, now }) => {
    if (!isEnabled(row)) return
    const before = showWebhook(row)
    const after = showWebhook(await disableWebhook(tx, row, reason, now))
    const data = { object: { object: 'webhook' as const, ...after }, details: { reason } }
    outbox.events.push({ type: 'webhook.disabled', resource_id: id, request_id: null, data })
    const { key_id } = row
    outbox.audit = ownEntry(deps, { key_id, action: 'disableWebhook', resource: id, code: reason, before, after })
  })
}
