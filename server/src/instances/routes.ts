import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Static, Type } from 'typebox'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Outbox } from '../events/outbox.ts'
import { checkIfMatch, sendCachedText, sendObject } from '../http/etag.ts'
import { sendPage } from '../http/list.ts'
import { createResponseCache } from '../http/response-cache.ts'
import { Id, Nullable, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { changed, created, write } from '../http/write.ts'
import { notFound } from '../lib/errors.ts'
import { act, type Changed, rebuild, type Target, terminate, updateInstance } from './change.ts'
import { readConsoleLog } from './console-log.ts'
import { createInstance } from './create.ts'
import { previewWrite } from './dry-run.ts'
import { listInstances } from './list.ts'
import { present } from './present.ts'
import { STATUSES } from './row.ts'
import {
  dryRun,
  Instance,
  InstanceCreate,
  InstanceOrPlan,
  InstancePage,
  InstancePlan,
  InstanceUpdate,
  instanceFilters,
  NoOptions,
  PowerAction,
  Rebuild,
} from './schema.ts'
import { find, type InstanceContext } from './store.ts'
import { waitFor } from './wait.ts'

const tags = ['Instances']
const params = Type.Object({ id: Id('inst', 'ID of the instance.') })

/** The longest `timeout` of 60 s, plus a margin. */
const WAIT_DEADLINE_MS = 75_000

const ACTIONS = {
  start: 'Starts a stopped or failed instance.',
  stop: 'Shuts down the guest, and stops it by force after `timeout_seconds`.',
  reboot: 'Shuts down the guest and starts it again.',
} as const

type DryRunRows = Parameters<typeof previewWrite>[5]
type InstanceChange = (tx: Transaction, context: Deps & InstanceContext, target: Target) => Promise<Changed>

export const instances: Resource = {
  schemas: [Instance, InstancePage, InstanceCreate, InstanceUpdate, InstancePlan, InstanceOrPlan],
  routes(app, deps) {
    const show = (row: Parameters<typeof present>[0]) => present(row, deps.config)
    const answers = createResponseCache(deps)
    const preview = (request: FastifyRequest, tx: Transaction, outbox: Outbox, rows: DryRunRows) => {
      const { operationId = '' } = request.routeOptions.schema as { operationId?: string }
      return previewWrite(deps, tx, outbox, request.principal, operationId, rows)
    }
    /** Carries out a change about the instance in the path: who asks, and the client's `If-Match`, go with it. */
    const change = (request: FastifyRequest, reply: FastifyReply, status: 200 | 202, change: InstanceChange) =>
      write(deps, request, reply, async (tx, outbox) => {
        const target: Target = {
          principal: request.principal,
          id: (request.params as Static<typeof params>).id,
          request_id: request.id,
          checkVersion: (version) => checkIfMatch(request.headers['if-match'], { version }),
        }
        const { before, after } = await change(tx, { ...deps, outbox }, target)
        if ((request.query as { dry_run?: boolean }).dry_run)
          return preview(request, tx, outbox, { before, after, status })
        const shown = show(after)
        return changed(status, target.id, before === after ? shown : show(before), shown)
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
        return sendPage(
          deps,
          request,
          reply,
          (window) => listInstances(deps.sql.as(environment_id), environment_id, request.query, window),
          show,
        )
      },
    )

    app.post(
      '/v2/instances',
      {
        config: { scope: 'instances:write', limits: ['creates', 'writes'], problems: ['capacity_exhausted'] },
        schema: {
          operationId: 'createInstance',
          summary: 'Create an instance',
          description:
            'Returns immediately. The guest is ready when the status is `running` (see `wait_for` of `getInstance`).',
          tags,
          querystring: Type.Object(dryRun, { additionalProperties: false }),
          body: ref(InstanceCreate),
          response: { 200: ref(InstancePlan), 201: ref(Instance) },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx, outbox) => {
          const after = await createInstance(tx, { ...deps, outbox }, request.principal, request.body, request.id)
          if (request.query.dry_run) return preview(request, tx, outbox, { before: null, after, status: 201 })
          const shown = show(after)
          return created(shown, shown.links.self)
        }),
    )

    app.get(
      '/v2/instances/:id',
      {
        config: { scope: 'instances:read', response_deadline_ms: WAIT_DEADLINE_MS },
        schema: {
          operationId: 'getInstance',
          summary: 'Get an instance',
          description:
            'With `wait_for`, returns when one of the statuses is reached, when none can be reached any more, or at the timeout.',
          tags,
          params,
          querystring: Type.Object(
            {
              wait_for: Type.Optional(
                Type.String({
                  pattern: `^(${STATUSES.join('|')})(,(${STATUSES.join('|')}))*$`,
                  'x-rule': `one or more of ${STATUSES.join(', ')}, separated by commas`,
                  description: 'Statuses to wait for, separated by commas.',
                }),
              ),
              timeout: Type.Optional(
                Type.Integer({
                  minimum: 1,
                  maximum: 60,
                  default: 60,
                  description: 'Maximum number of seconds to wait.',
                }),
              ),
            },
            { additionalProperties: false },
          ),
          response: { 200: ref(Instance) },
        },
      },
      (request, reply) => {
        const { environment_id } = request.principal
        const { id } = request.params
        const { wait_for, timeout = 60 } = request.query
        const known = wait_for === undefined ? answers.get(environment_id, id) : null
        // The busiest answer of all costs no promise.
        if (known) return void sendCachedText(request, reply, known)
        return wait_for === undefined ? answerNow() : answerLater(wait_for.split(','))

        async function answerNow() {
          const read = () => find(deps.sql.as(environment_id), environment_id, id)
          // A terminated one vanishes by the passing of time, which nobody tells.
          const answer = await answers.fill(environment_id, id, read, show, (row) => row.terminated_at === null)
          if (!answer) throw notFound('instance', id)
          return sendCachedText(request, reply, answer)
        }
        async function answerLater(statuses: string[]) {
          const row = await waitFor(deps, environment_id, id, statuses, timeout, request.raw)
          if (!row) throw notFound('instance', id)
          return sendObject(request, reply, show(row))
        }
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
                Type.Boolean({ default: false, description: 'Allow a new plan to reboot a running instance.' }),
              ),
              ...dryRun,
            },
            { additionalProperties: false },
          ),
          body: ref(InstanceUpdate),
          response: {
            200: ref(InstanceOrPlan),
          },
        },
        handler: (request, reply) => {
          const options = { allow_reboot: request.query.allow_reboot ?? false }
          return change(request, reply, 200, (tx, context, target) =>
            updateInstance(tx, context, target, request.body, options),
          )
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
          description: 'Terminates the instance permanently. It can be read for another 24 hours.',
          tags,
          params,
          querystring: Type.Object(dryRun, { additionalProperties: false }),
          response: { 200: ref(InstancePlan), 202: ref(Instance) },
        },
      },
      (request, reply) => change(request, reply, 202, terminate),
    )

    for (const action of Object.keys(ACTIONS) as (keyof typeof ACTIONS)[]) {
      app.post(
        `/v2/instances/:id/actions/${action}`,
        {
          config: { scope: 'instances:write', problems: ['invalid_state', 'precondition_failed'] },
          schema: {
            operationId: `${action}Instance`,
            summary: `${action[0]!.toUpperCase()}${action.slice(1)} an instance`,
            description: `${ACTIONS[action]} No effect if already in that state.`,
            tags,
            params,
            body: action === 'start' ? Nullable(NoOptions) : Nullable(PowerAction),
            response: { 202: ref(Instance) },
          },
        },
        (request, reply) => {
          const body = (request.body ?? {}) as Static<typeof PowerAction>
          return change(request, reply, 202, (tx, context, target) => act(tx, context, target, action, body))
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
          description: 'Deletes the disk and boots a new one from the image. ID and IP addresses stay the same.',
          tags,
          params,
          body: Nullable(Rebuild),
          response: { 202: ref(Instance) },
        },
      },
      (request, reply) =>
        change(request, reply, 202, (tx, context, target) => rebuild(tx, context, target, request.body ?? {})),
    )

    app.get(
      '/v2/instances/:id/console_log',
      {
        config: { scope: 'instances:read' },
        schema: {
          operationId: 'getInstanceConsoleLog',
          summary: 'Read the serial console',
          description: 'Returns the output of the serial console as plain text.',
          tags,
          params,
          querystring: Type.Object(
            {
              tail: Type.Optional(
                Type.Integer({ minimum: 1, maximum: 10_000, description: 'Return only this many lines from the end.' }),
              ),
              follow: Type.Optional(
                Type.Boolean({ default: false, description: 'Keep the connection open and stream new output.' }),
              ),
            },
            { additionalProperties: false },
          ),
          response: { 200: { description: 'The console log.', content: { 'text/plain': { schema: Type.String() } } } },
        },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const row = await find(deps.sql.as(environment_id), environment_id, request.params.id)
        if (!row) throw notFound('instance', request.params.id)
        reply.type('text/plain; charset=utf-8').header('x-content-type-options', 'nosniff')
        return reply.send((await readConsoleLog(deps, row, request.query, request.raw)) as never)
      },
    )
  },
}
