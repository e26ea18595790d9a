import type { FastifyRequest } from 'fastify'
import { type Static, Type } from 'typebox'
import { answerObject, checkIfMatch } from '../http/etag.ts'
import { answerPage } from '../http/list.ts'
import { Id, Nullable, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { act, rebuild, type Target, terminate, updateInstance } from './change.ts'
import { readConsoleLog } from './console-log.ts'
import { createInstance } from './create.ts'
import { listInstances } from './list.ts'
import { present } from './present.ts'
import { STATUSES } from './row.ts'
import {
  Instance,
  InstanceCreate,
  InstancePage,
  InstanceUpdate,
  instanceFilters,
  NoOptions,
  PowerAction,
  Rebuild,
} from './schema.ts'
import { find } from './store.ts'
import { waitFor } from './wait.ts'

const tags = ['Instances']
const params = Type.Object({ id: Id('inst', 'Identifier of the instance.') })

/** A poll of 60 s, and some time besides. */
const WAIT_DEADLINE_MS = 75_000

const ACTIONS = {
  start: 'Starts a stopped or failed instance.',
  stop: 'Asks the guest to power off and, when its time is over, pulls the plug.',
  reboot: 'Powers the guest off and starts it again.',
} as const

export const instances: Resource = {
  schemas: [Instance, InstancePage, InstanceCreate, InstanceUpdate],
  routes(app, deps) {
    const show = (row: Parameters<typeof present>[0]) => present(row, deps.config)
    /** What a wish is about: who asks, which instance, and the client's `If-Match`. */
    const target = (request: Pick<FastifyRequest, 'principal' | 'id' | 'headers'>, id: string): Target => ({
      principal: request.principal,
      id,
      request_id: request.id,
      checkVersion: (version) => checkIfMatch(request.headers['if-match'], { version }),
    })

    app.get(
      '/v2/instances',
      {
        config: { scope: 'instances:read' },
        schema: {
          operationId: 'listInstances',
          summary: 'List instances',
          tags,
          querystring: Type.Object(instanceFilters, { additionalProperties: false }),
          response: { 200: ref(InstancePage) },
        },
      },
      (request, reply) => {
        const { environment_id } = request.principal
        return answerPage(
          deps,
          request,
          reply,
          (window) => listInstances(deps.sql, environment_id, request.query, window),
          show,
        )
      },
    )

    app.post(
      '/v2/instances',
      {
        config: { scope: 'instances:write', problems: ['capacity_exhausted'] },
        schema: {
          operationId: 'createInstance',
          summary: 'Create an instance',
          description: 'Answers at once; the instance is up when its status is `running` (see `wait_for`).',
          tags,
          body: ref(InstanceCreate),
          response: { 201: ref(Instance) },
        },
      },
      async (request, reply) => {
        const row = await createInstance(deps, request.principal, request.body, request.id)
        const shown = show(row)
        reply.code(201).header('location', shown.links.self)
        return answerObject(request, reply, shown)
      },
    )

    app.get(
      '/v2/instances/:id',
      {
        config: { scope: 'instances:read', answer_deadline_ms: WAIT_DEADLINE_MS },
        schema: {
          operationId: 'getInstance',
          summary: 'Get an instance',
          description:
            'With `wait_for`, answers when a status is reached, when none can be reached, or at the timeout.',
          tags,
          params,
          querystring: Type.Object(
            {
              wait_for: Type.Optional(
                Type.String({
                  pattern: `^(${STATUSES.join('|')})(,(${STATUSES.join('|')}))*$`,
                  'x-rule': `one or more of ${STATUSES.join(', ')}, by comma`,
                  description: 'Statuses to wait for.',
                }),
              ),
              timeout: Type.Optional(
                Type.Integer({ minimum: 1, maximum: 60, default: 60, description: 'Seconds to wait at most.' }),
              ),
            },
            { additionalProperties: false },
          ),
          response: { 200: ref(Instance) },
        },
      },
      async (request, reply) => {
        const { principal, params, query } = request
        const row = query.wait_for
          ? await waitFor(
              deps,
              principal.environment_id,
              params.id,
              query.wait_for.split(','),
              query.timeout ?? 60,
              request.raw,
            )
          : await find(deps.sql, principal.environment_id, params.id)
        if (!row) throw notFound('instance', params.id)
        return answerObject(request, reply, show(row))
      },
    )

    for (const method of ['PUT', 'PATCH'] as const) {
      app.route({
        method,
        url: '/v2/instances/:id',
        config: {
          scope: 'instances:write',
          problems: [
            'capacity_exhausted',
            'invalid_state',
            'reboot_required',
            'immutable_field',
            'disk_cannot_shrink',
            'precondition_failed',
          ],
        },
        schema: {
          operationId: method === 'PUT' ? 'updateInstance' : 'patchInstance',
          summary: method === 'PUT' ? 'Update an instance' : 'Update an instance (merge patch)',
          tags,
          params,
          querystring: Type.Object(
            {
              allow_reboot: Type.Optional(
                Type.Boolean({ default: false, description: 'A new plan may reboot a running instance.' }),
              ),
            },
            { additionalProperties: false },
          ),
          body: ref(InstanceUpdate),
          response: { 200: ref(Instance) },
        },
        handler: async (request, reply) => {
          const options = { allow_reboot: request.query.allow_reboot ?? false }
          const row = await updateInstance(deps, target(request, request.params.id), request.body, options)
          return answerObject(request, reply, show(row))
        },
      })
    }

    app.delete(
      '/v2/instances/:id',
      {
        config: { scope: 'instances:write', problems: ['termination_protected', 'precondition_failed'] },
        schema: {
          operationId: 'terminateInstance',
          summary: 'Terminate an instance',
          description: 'For good. It can be read for 24 hours more.',
          tags,
          params,
          response: { 202: ref(Instance) },
        },
      },
      async (request, reply) => {
        const row = await terminate(deps, target(request, request.params.id))
        reply.code(202)
        return answerObject(request, reply, show(row))
      },
    )

    for (const action of Object.keys(ACTIONS) as (keyof typeof ACTIONS)[]) {
      app.post(
        `/v2/instances/:id/actions/${action}`,
        {
          config: { scope: 'instances:write', problems: ['invalid_state', 'precondition_failed'] },
          schema: {
            operationId: `${action}Instance`,
            summary: `${action[0]!.toUpperCase()}${action.slice(1)} an instance`,
            description: `${ACTIONS[action]} Already so: nothing changes.`,
            tags,
            params,
            body: action === 'start' ? Nullable(NoOptions) : Nullable(PowerAction),
            response: { 202: ref(Instance) },
          },
        },
        async (request, reply) => {
          const body = (request.body ?? {}) as Static<typeof PowerAction>
          const row = await act(deps, target(request, request.params.id), action, body)
          reply.code(202)
          return answerObject(request, reply, show(row))
        },
      )
    }

    app.post(
      '/v2/instances/:id/actions/rebuild',
      {
        config: { scope: 'instances:write', problems: ['invalid_state', 'precondition_failed'] },
        schema: {
          operationId: 'rebuildInstance',
          summary: 'Rebuild an instance',
          description: 'Wipes the disk and starts anew from the image; id and addresses stay.',
          tags,
          params,
          body: Nullable(Rebuild),
          response: { 202: ref(Instance) },
        },
      },
      async (request, reply) => {
        const row = await rebuild(deps, target(request, request.params.id), request.body ?? {})
        reply.code(202)
        return answerObject(request, reply, show(row))
      },
    )

    app.get(
      '/v2/instances/:id/console_log',
      {
        config: { scope: 'instances:read' },
        schema: {
          operationId: 'getInstanceConsoleLog',
          summary: 'Read the serial console',
          description: 'What the machine has written to its serial port, as plain text.',
          tags,
          params,
          querystring: Type.Object(
            {
              tail: Type.Optional(
                Type.Integer({ minimum: 1, maximum: 10_000, description: 'Only this many lines from the end.' }),
              ),
              follow: Type.Optional(
                Type.Boolean({ default: false, description: 'Go on as the machine writes, until the client leaves.' }),
              ),
            },
            { additionalProperties: false },
          ),
          response: { 200: { description: 'The log.', content: { 'text/plain': { schema: Type.String() } } } },
        },
      },
      async (request, reply) => {
        const row = await find(deps.sql, request.principal.environment_id, request.params.id)
        if (!row) throw notFound('instance', request.params.id)
        reply.type('text/plain; charset=utf-8').header('x-content-type-options', 'nosniff')
        return reply.send((await readConsoleLog(deps, row, request.query, request.raw)) as never)
      },
    )
  },
}
