import { createHash } from 'node:crypto'

/** The ID of the first delivery of an event to a webhook, as queue_deliveries() of the database computes it. */
export function deliveryIdOf(eventId: string, webhookId: string): string {
  return `dlv_${createHash('sha256').update(`${eventId}${webhookId}`).digest('hex').slice(0, 20)}`
}
