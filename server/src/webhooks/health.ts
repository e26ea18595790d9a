/** What attempts say of their endpoint: noted with them, and where it is to be given up, done. */
import { ownEntry } from '../audit/store.ts'
import type { Deps } from '../deps.ts'
import { type Claim, checkLease } from '../engine/work.ts'
import { withOutbox } from '../events/outbox.ts'
import { type Outcome, record } from './deliveries.ts'
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
  const { health, disable: reason } = await recordOutcomes(deps, claimed, outcomes, known)
  if (reason && !isGone) await disable(deps, claimed, endpoint, reason)
  return { health, disabled: reason !== null }
}

async function recordOutcomes(
  deps: Deps,
  claimed: Claim,
  outcomes: Outcome[],
  known: Health,
): Promise<{ health: Health; disable: DisabledReason | null }> {
  const attempts = outcomes.flatMap(({ attempt }) => attempt ?? [])
  const isWell = known.failing_since === null && !known.throttled
  if (isWell && attempts.every(({ error }) => error === null)) {
    await record(deps.sql, claimed, outcomes, null)
    return { health: known, disable: null }
  }
  let health = known
  let disable: DisabledReason | null = null
  await record(deps.sql, claimed, outcomes, async (tx) => {
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
 * Disables an endpoint for a reason that was seen, tells the others by `webhook.disabled`, and notes it in the audit log.
 * Without the fence, whose lock on the work row must not be held while the environment's head is waited for; the row's own
 * lock, and that it is enabled still, make it happen once, and who was held up does not undo what its owner did since.
 */
export async function disable(
  deps: Deps,
  claimed: Claim,
  { row: known, mode }: Endpoint,
  reason: DisabledReason,
): Promise<void> {
  const { environment_id, id } = known
  await withOutbox(deps, { environment_id, mode }, async (tx, outbox) => {
    const found = await findWebhook(tx, id)
    await checkLease(tx, claimed)
    if (!found || !isEnabled(found.row)) return
    const before = showWebhook(found.row)
    const after = showWebhook(await disableWebhook(tx, found.row, reason, found.now))
    const data = { object: { object: 'webhook' as const, ...after }, details: { reason } }
    outbox.events.push({ type: 'webhook.disabled', resource_id: id, request_id: null, data })
    const { key_id } = found.row
    outbox.audit = ownEntry(deps, { key_id, action: 'disableWebhook', resource: id, code: reason, before, after })
  })
}
