import type { FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendObject } from '../http/etag.ts'
import { listParameters, sendPage } from '../http/list.ts'
import { Id, NoContent, Nullable, ref } from '../http/schemas.ts'
import type { App, Resource } from '../http/types.ts'
import { changed, created, removed, write } from '../writes/write.ts'
import { deliveryActions, deliveryRoutes } from './delivery-routes.ts'
import { checkUrl, createWebhook, deleteWebhook, rotateSecret, updateWebhook } from './manage.ts'
import { showWebhook } from './present.ts'
import {
  RotateSecret,
  Webhook,
  WebhookAttempt,
  WebhookCreate,
  WebhookDelivery,
  WebhookDeliveryDetail,
  WebhookDeliveryPage,
  WebhookPage,
  WebhookPing,
  WebhookReplay,
  WebhookReplayCreate,
  WebhookUpdate,
  WebhookWithSecret,
} from './schema.ts'
import { getWebhook, listWebhooks } from './store.ts'

const tags = ['Webhooks']
const params = Type.Object({ id: Id('whk', 'Identifier of the webhook.') })

const target = (request: FastifyRequest, id: string) => ({
  principal: request.principal,
  id,
  if_match: request.headers['if-match'],
})

export const webhooks: Resource = {
  tag: { name: 'Webhooks', description: 'HTTP endpoints that receive events, and their delivery log.' },
  schemas: [
    Webhook,
    WebhookPage,
    WebhookWithSecret,
    WebhookCreate,
    WebhookUpdate,
    WebhookPing,
    WebhookAttempt,
    WebhookDelivery,
    WebhookDeliveryPage,
    WebhookDeliveryDetail,
    WebhookReplayCreate,
    WebhookReplay,
  ],
  routes(app, deps) {
    readRoutes(app, deps)
    createRoute(app, deps)
    updateRoutes(app, deps)
    deleteRoute(app, deps)
    rotateRoute(app, deps)
    deliveryRoutes(app, deps)
    deliveryActions(app, deps)
  },
}

function readRoutes(app: App, deps: Deps): void {
  app.get(
    '/v2/webhooks',
    {
      config: { scope: 'webhooks:read' },
      schema: {
        operationId: 'listWebhooks',
        summary: 'List webhooks',
        tags,
        querystring: Type.Object(listParameters, { additionalProperties: false }),
        response: { 200: ref(WebhookPage) },
      },
    },
    (request, reply) => {
      const { environment_id } = request.principal
      const sql = deps.sql.as(environment_id)
      return sendPage(deps, request, reply, (window) => listWebhooks(sql, environment_id, window), showWebhook)
    },
  )

  app.get(
    '/v2/webhooks/:id',
    {
      config: { scope: 'webhooks:read' },
      schema: { operationId: 'getWebhook', summary: 'Get a webhook', tags, params, response: { 200: ref(Webhook) } },
    },
    async (request, reply) => {
      const { environment_id } = request.principal
      const row = await getWebhook(deps.sql.as(environment_id), environment_id, request.params.id)
      return sendObject(request, reply, showWebhook(row))
    },
  )
}

function createRoute(app: App, deps: Deps): void {
  app.post(
    '/v2/webhooks',
    {
      config: { scope: 'webhooks:write', problems: ['conflict', 'capacity_exhausted'] },
      schema: {
        operationId: 'createWebhook',
        summary: 'Create a webhook',
        description:
          'Each event is delivered at least once, in the JSON format of `/v2/events`, with a signature of the Standard Webhooks specification. A delivery succeeds when the receiver returns 2xx within 15 seconds. CloudNexus retries a failed delivery: ten attempts in about three days. Deliveries can arrive out of order; compare `sequence`, or the `version` of the resource.',
        tags,
        body: ref(WebhookCreate),
        response: { 201: ref(WebhookWithSecret) },
      },
    },
    async (request, reply) => {
      await checkUrl(deps, request.principal, request.body.url)
      return write(deps, request, reply, async (tx, outbox) => {
        const { row, secret } = await createWebhook(tx, outbox, deps, request.principal, request.body)
        const shown = showWebhook(row)
        const { id, ...rest } = shown
        return {
          ...created(shown, `${deps.config.public_url}/v2/webhooks/${id}`),
          body: { id, secret, ...rest },
          secrets: ['secret'],
        }
      })
    },
  )
}

function updateRoutes(app: App, deps: Deps): void {
  for (const method of ['PUT', 'PATCH'] as const) {
    app.route({
      method,
      url: '/v2/webhooks/:id',
      config: { scope: 'webhooks:write', problems: ['precondition_failed'] },
      schema: {
        operationId: method === 'PUT' ? 'updateWebhook' : 'patchWebhook',
        summary: method === 'PUT' ? 'Update a webhook' : 'Update a webhook (merge patch)',
        tags,
        params,
        body: ref(WebhookUpdate),
        response: { 200: ref(Webhook) },
      },
      handler: async (request, reply) => {
        await checkUrl(deps, request.principal, request.body.url)
        return write(deps, request, reply, async (tx, outbox) => {
          const { before, after } = await updateWebhook(tx, outbox, target(request, request.params.id), request.body)
          const was = showWebhook(before)
          return changed(200, after.id, was, before === after ? was : showWebhook(after))
        })
      },
    })
  }
}

function deleteRoute(app: App, deps: Deps): void {
  app.delete(
    '/v2/webhooks/:id',
    {
      config: { scope: 'webhooks:write', problems: ['precondition_failed'] },
      schema: {
        operationId: 'deleteWebhook',
        summary: 'Delete a webhook',
        description: 'Stops all deliveries and deletes the delivery log of the webhook. Events are kept.',
        tags,
        params,
        response: { 204: NoContent('The webhook was deleted.') },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) =>
        removed(showWebhook(await deleteWebhook(tx, outbox, target(request, request.params.id)))),
      ),
  )
}

function rotateRoute(app: App, deps: Deps): void {
  app.post(
    '/v2/webhooks/:id/rotate_secret',
    {
      config: { scope: 'webhooks:write', problems: ['precondition_failed'] },
      schema: {
        operationId: 'rotateWebhookSecret',
        summary: 'Rotate the secret of a webhook',
        description:
          'During the overlap each request carries two signatures, the new one first, so a receiver can verify with either secret. A key that neither created the webhook nor set its URL or events also needs the scope `keys:write`.',
        tags,
        params,
        body: Nullable(RotateSecret),
        response: { 200: ref(WebhookWithSecret) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx) => {
        const overlap = request.body?.overlap_seconds ?? 86_400
        const { before, after, secret } = await rotateSecret(tx, deps, target(request, request.params.id), overlap)
        const { id, ...rest } = showWebhook(after)
        const outcome = changed(200, id, showWebhook(before), { id, ...rest })
        return { ...outcome, body: { id, secret, ...rest }, secrets: ['secret'] }
      }),
  )
}
