import { createHash } from 'node:crypto'
import type { Query } from '../db/database.ts'

/** The id of the first delivery of an event to a webhook, as queue_deliveries() of the database makes it, too. */
export function deliveryIdOf(eventId: string, webhookId: string): string {
  return `dlv_${createHash('sha256').update(`${eventId}${webhookId}`).digest('hex').slice(0, 20)}`
}

/**
 * A case of the statement that has `head` and `told` (the events): so there is one delivery of an event for each webhook
 * that wants it, or no event.
 */
export function queueDeliveries(tx: Query, environmentId: string) {
  return tx`when (select webhooks from head) > 0 then (
    select queue_deliveries(${environmentId}, array_agg(id), array_agg(sequence), array_agg(type),
      array_agg(resource_id), max(created_at))
    from told)`
}
