/**
 * Events → what is to be sent of them, as a part of the statement that writes the events: so there is one delivery for
 * each webhook that wants an event, or no event. An environment without webhooks pays for a look into an empty index.
 */
import { createHash } from 'node:crypto'
import type { Query } from '../db/database.ts'

/** The id of the first delivery of an event to a webhook: nobody can make it twice. The statement below does the same. */
export function deliveryIdOf(eventId: string, webhookId: string): string {
  return `dlv_${createHash('sha256').update(`${eventId}${webhookId}`).digest('hex').slice(0, 20)}`
}

/** Goes on a statement that has `head` (the time) and `told` (the events). A ping is for the webhook that it is about. */
export function queueDeliveries(tx: Query, environmentId: string) {
  return tx`, queued as (
    insert into webhook_deliveries
      (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, due_at, created_at)
    select w.environment_id, 'dlv_' || left(encode(sha256(convert_to(t.id || w.id, 'UTF8')), 'hex'), 20), w.id,
      t.id, t.sequence, t.type, case when t.type = 'webhook.ping' then 'ping' else 'event' end, t.created_at, t.created_at
    from told t join webhooks w on case when t.type = 'webhook.ping' then w.id = t.resource_id
      else w.events && array['*', split_part(t.type, '.', 1) || '.*', t.type] end
    where w.environment_id = ${environmentId} and w.wanted_enabled and not w.wanted_gone
      and w.observed_disabled_reason is null
    order by t.sequence
    returning webhook_id
  ), woken as (
    insert into work as w (kind, id, environment_id, due_at)
    select distinct 'webhook', q.webhook_id, ${environmentId}, head.now from queued q, head order by q.webhook_id
    on conflict (kind, id) do update set
      due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1)`
}
