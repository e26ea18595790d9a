import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { deliveryIdOf } from '../events/deliveries.ts'
import { sendObject } from '../http/etag.ts'
import { sendPage } from '../http/list.ts'
import { Id, ref } from '../http/schemas.ts'
import type { App } from '../http/types.ts'
import { newId } from '../lib/id.ts'
import { write } from '../writes/write.ts'
import { getDelivery, insertReplay, insertResend, listAttempts, listDeliveries, type ReplayOf } from './deliveries.ts'
import { requireEnabled, typesOf } from './manage.ts'
import { showAttempt, showDelivery, showWebhook } from './present.ts'
import {
  deliveryFilters,
  WebhookDelivery,
  WebhookDeliveryDetail,
  WebhookDeliveryPage,
  WebhookPing,
  WebhookReplay,
  type WebhookReplayBody,
  WebhookReplayCreate,
} from './schema.ts'
import { getWebhook, lockWebhook, wakeWebhook } from './store.ts'

const tags = ['Webhooks']
const id = Id('whk', 'Unique identifier of the webhook.')
const params = Type.Object({ id })
const deliveryParams = Type.Object({ id, delivery_id: Id('dlv', 'Unique identifier of the delivery.') })

/** Routes of the delivery log. */
export function deliveryRoutes(app: App, deps: Deps): void {
  app.get(
    '/v2/webhooks/:id/deliveries',
    {
      config: { scope: 'webhooks:read' },
      schema: {
        operationId: 'listWebhookDeliveries',
        summary: 'List the deliveries of a webhook',
        tags,
        params,
        querystring: Type.Object(deliveryFilters, { additionalProperties: false }),
        response: { 200: ref(WebhookDeliveryPage) },
      },
    },
    async (request, reply) => {
      const { environment_id } = request.principal
      const sql = deps.sql.as(environment_id)
      const webhook = await getWebhook(sql, environment_id, request.params.id)
      const select = (window: Parameters<typeof listDeliveries>[3]) =>
        listDeliveries(sql, webhook.id, request.query, window)
      return sendPage(deps, request, reply, select, showDelivery)
    },
  )

  app.get(
    '/v2/webhooks/:id/deliveries/:delivery_id',
    {
      config: { scope: 'webhooks:read' },
      schema: {
        operationId: 'getWebhookDelivery',
        summary: 'Get a delivery and its attempts',
        tags,
        params: deliveryParams,
        response: { 200: ref(WebhookDeliveryDetail) },
      },
    },
    async (request, reply) => {
      const { environment_id } = request.principal
      const sql = deps.sql.as(environment_id)
      const webhook = await getWebhook(sql, environment_id, request.params.id)
      const row = await getDelivery(sql, webhook.id, request.params.delivery_id)
      const attempts = await listAttempts(sql, row.id)
      return sendObject(request, reply, { ...showDelivery(row), attempts: attempts.map(showAttempt) })
    },
  )
}

/** Actions that send events: resend, ping, replay. */
export function deliveryActions(app: App, deps: Deps): void {
  resendRoute(app, deps)
  pingRoute(app, deps)
  replayRoute(app, deps)
}

function resendRoute(app: App, deps: Deps): void {
  app.post(
    '/v2/webhooks/:id/deliveries/:delivery_id/resend',
    {
      config: { scope: 'webhooks:write', problems: ['conflict', 'invalid_state'] },
      schema: {
        operationId: 'resendWebhookDelivery',
        summary: 'Resend an event',
        description: 'Creates a new delivery of the same event, with the same `webhook-id` and the same body.',
        tags,
        params: deliveryParams,
        response: { 202: ref(WebhookDelivery) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const { environment_id } = request.principal
        const { row } = await lockWebhook(tx, environment_id, request.params.id)
        requireEnabled(row)
        const { event_sequence } = await getDelivery(tx, row.id, request.params.delivery_id)
        const target = { environment_id, webhook_id: row.id }
        const after = showDelivery(await insertResend(tx, deps.random, target, event_sequence))
        wakeWebhook(outbox, row)
        return { status: 202, resource: row.id, before: null, after }
      }),
  )
}

function pingRoute(app: App, deps: Deps): void {
  app.post(
    '/v2/webhooks/:id/ping',
    {
      config: { scope: 'webhooks:write', problems: ['invalid_state'] },
      schema: {
        operationId: 'pingWebhook',
        summary: 'Send a test event',
        description: 'Sends a `webhook.ping` event to this webhook only, whatever its `events` are.',
        tags,
        params,
        response: { 202: ref(WebhookPing) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const { row } = await lockWebhook(tx, request.principal.environment_id, request.params.id)
        requireEnabled(row)
        const event_id = newId('evt', deps.random)
        const data = { object: { object: 'webhook' as const, ...showWebhook(row) } }
        outbox.events.push({ id: event_id, type: 'webhook.ping', resource_id: row.id, request_id: request.id, data })
        const after = { event_id, delivery_id: deliveryIdOf(event_id, row.id) }
        return { status: 202, resource: row.id, before: null, after }
      }),
  )
}

function replayRoute(app: App, deps: Deps): void {
  app.post(
    '/v2/webhooks/:id/replay',
    {
      config: { scope: 'webhooks:write', problems: ['conflict', 'invalid_state'] },
      schema: {
        operationId: 'replayWebhook',
        summary: 'Replay events',
        description:
          'Queues either the events of a range of sequence numbers that match the webhook’s `events`, delivered before or not, or the events whose deliveries failed since a time. One request queues at most 10,000 events. They are sent at 20 per second, after new events.',
        tags,
        params,
        body: ref(WebhookReplayCreate),
        response: { 202: ref(WebhookReplay) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const which = readReplay(request.body)
        const { environment_id } = request.principal
        const { row } = await lockWebhook(tx, environment_id, request.params.id)
        requireEnabled(row)
        const target = { environment_id, webhook_id: row.id }
        const { until, ...found } = await insertReplay(tx, deps.random, target, which, typesOf(row.events))
        wakeWebhook(outbox, row)
        const after = { ...found, until: until && `${until.toISOString().slice(0, 19)}Z` }
        return { status: 202, resource: row.id, before: null, after }
      }),
  )
}

/** The schema requires exactly one of the two forms. */
function readReplay({ from_sequence, to_sequence, failed_since }: WebhookReplayBody): ReplayOf {
  if (failed_since !== undefined) return { failed_since: new Date(failed_since) }
  return { from_sequence: from_sequence!, to_sequence: to_sequence! }
}
