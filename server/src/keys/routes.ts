import type { FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendObject } from '../http/etag.ts'
import { commaList, sendPage, type Window } from '../http/list.ts'
import { Id, NoContent, Nullable, ref } from '../http/schemas.ts'
import type { App, Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { changed, created, type Outcome, write } from '../writes/write.ts'
import { issueKey, revokeKey, rotateKey, updateKey } from './manage.ts'
import { showKey } from './present.ts'
import type { KeyRow, KeyStatus } from './row.ts'
import { ApiKey, ApiKeyCreate, ApiKeyCreated, ApiKeyPage, ApiKeyUpdate, keyFilters, Rotate } from './schema.ts'
import { findKey, listKeys } from './store.ts'

const tags = ['API keys']
const params = Type.Object({ id: Id('key', 'ID of the key.') })

export const apiKeys: Resource = {
  tag: { name: 'API keys', description: 'Credentials with scopes, allowed IP addresses and budgets.' },
  schemas: [ApiKey, ApiKeyCreated, ApiKeyPage, ApiKeyCreate, ApiKeyUpdate],
  routes(app, deps) {
    collectionRoutes(app, deps)
    keyRoutes(app, deps)
    rotationRoute(app, deps)
  },
}

/** List and create. */
function collectionRoutes(app: App, deps: Deps): void {
  app.get(
    '/v2/api_keys',
    {
      config: { scope: 'keys:read' },
      schema: {
        operationId: 'listApiKeys',
        summary: 'List API keys',
        tags,
        querystring: Type.Object(keyFilters, { additionalProperties: false }),
        response: { 200: ref(ApiKeyPage) },
      },
    },
    (request, reply) => {
      const { environment_id } = request.principal
      const statuses = (commaList(request.query.status) ?? ['active']) as KeyStatus[]
      const sql = deps.sql.as(environment_id)
      const select = (window: Window) => listKeys(sql, environment_id, statuses, window)
      const show = (row: KeyRow) => shownBy(deps, row)
      return sendPage(deps, request, reply, select, show)
    },
  )

  app.post(
    '/v2/api_keys',
    {
      config: { scope: 'keys:write', problems: ['capacity_exhausted'] },
      schema: {
        operationId: 'createApiKey',
        summary: 'Create an API key',
        description:
          'Creates a key in the environment of your key. Its scopes, expiry, IP addresses and budget must be within those of your key.',
        tags,
        body: ref(ApiKeyCreate),
        response: { 201: ref(ApiKeyCreated) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) =>
        issued(deps, await issueKey(tx, outbox, deps, request.principal, request.body)),
      ),
  )
}

/** Get, update and revoke. */
function keyRoutes(app: App, deps: Deps): void {
  app.get(
    '/v2/api_keys/:id',
    {
      config: { scope: 'keys:read' },
      schema: { operationId: 'getApiKey', summary: 'Get an API key', tags, params, response: { 200: ref(ApiKey) } },
    },
    async (request, reply) => {
      const { environment_id } = request.principal
      const row = await findKey(deps.sql.as(environment_id), environment_id, request.params.id)
      if (!row) throw notFound('API key', request.params.id)
      return sendObject(request, reply, shownBy(deps, row))
    },
  )

  for (const method of ['PUT', 'PATCH'] as const) {
    app.route({
      method,
      url: '/v2/api_keys/:id',
      config: { scope: 'keys:write', problems: ['invalid_state', 'immutable_field', 'precondition_failed'] },
      schema: {
        operationId: method === 'PUT' ? 'updateApiKey' : 'patchApiKey',
        summary: method === 'PUT' ? 'Update an API key' : 'Update an API key (merge patch)',
        description: 'Changes take effect within one second.',
        tags,
        params,
        body: ref(ApiKeyUpdate),
        response: { 200: ref(ApiKey) },
      },
      handler: (request, reply) =>
        write(deps, request, reply, async (tx) => {
          const { before, after } = await updateKey(tx, target(deps, request, request.params.id), request.body)
          return { ...changed(200, after.id, shownBy(deps, before), shownBy(deps, after)), ...drop(deps, after.id) }
        }),
    })
  }

  app.delete(
    '/v2/api_keys/:id',
    {
      config: { scope: 'keys:write', problems: ['precondition_failed'] },
      schema: {
        operationId: 'revokeApiKey',
        summary: 'Revoke an API key',
        description:
          'Revocation is permanent and takes effect within one second. Keys and resources that were created with the key are not affected.',
        tags,
        params,
        response: { 204: NoContent('The key is revoked.') },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx) => {
        const { before, after } = await revokeKey(tx, target(deps, request, request.params.id))
        const was = shownBy(deps, before)
        const is = before === after ? was : shownBy(deps, after)
        return { status: 204, resource: after.id, before: was, after: is, body: null, ...drop(deps, after.id) }
      }),
  )
}

/** Rotate. */
function rotationRoute(app: App, deps: Deps): void {
  app.post(
    '/v2/api_keys/:id/rotate',
    {
      config: {
        scope: 'keys:write',
        problems: ['capacity_exhausted', 'conflict', 'invalid_state', 'precondition_failed'],
      },
      schema: {
        operationId: 'rotateApiKey',
        summary: 'Rotate an API key',
        description:
          'Creates a new key with the same name, scopes, IP addresses, expiry and budget. The old key remains active during the overlap.',
        tags,
        params,
        body: Nullable(Rotate),
        response: { 201: ref(ApiKeyCreated) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const overlap = request.body?.overlap_seconds ?? 86_400
        const { id } = request.params
        return {
          ...issued(deps, await rotateKey(tx, outbox, deps, target(deps, request, id), overlap)),
          ...drop(deps, id),
        }
      }),
  )
}

const shownBy = ({ config }: Pick<Deps, 'config'>, row: KeyRow) => showKey(row, config.key_rotation_days)

const target = (deps: Deps, request: Pick<FastifyRequest, 'principal' | 'headers'>, id: string) => ({
  principal: request.principal,
  id,
  if_match: request.headers['if-match'],
  rotation_days: deps.config.key_rotation_days,
})

/** The only response that contains a key. */
const issued = (deps: Deps, { row, key }: { row: KeyRow; key: string }): Outcome => {
  const shown = shownBy(deps, row)
  const { id, ...rest } = shown
  const made = created(shown, `${deps.config.public_url}/v2/api_keys/${id}`)
  return { ...made, body: { id, key, ...rest }, secrets: ['key'] }
}

/** Removes the key from the cache of this process after the commit. */
const drop = (deps: Deps, id: string) => ({ committed: () => deps.keys.drop(id) })
