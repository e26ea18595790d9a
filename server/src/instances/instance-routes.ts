import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendCachedText, sendObject } from '../http/etag.ts'
import { createResponseCache } from '../http/response-cache.ts'
import { dryRun, ref } from '../http/schemas.ts'
import type { App } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { terminate, updateInstance } from './change.ts'
import { present } from './present.ts'
import { changeInstance, params, tags } from './route-writes.ts'
import { STATUSES } from './row.ts'
import { Instance, InstanceOrPlan, InstancePlan, InstanceUpdate } from './schema.ts'
import { find } from './store.ts'
import { waitFor } from './wait.ts'

/** The longest `timeout` of 60 s, plus a margin. */
const WAIT_DEADLINE_MS = 75_000

/** Get, update and terminate one instance. */
export function instanceRoutes(app: App, deps: Deps): void {
  readRoute(app, deps)
  updateRoutes(app, deps)
  terminateRoute(app, deps)
}

/** GET, immediately or after a long poll. */
function readRoute(app: App, deps: Deps): void {
  const show = (row: Parameters<typeof present>[0]) => present(row, deps.config)
  const cache = createResponseCache(deps)
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
                default: 50,
                description:
                  'Maximum number of seconds to wait. The default is shorter than the timeout of most proxies.',
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
      const { wait_for, timeout = 50 } = request.query
      const known = wait_for === undefined ? cache.get(environment_id, id) : null
      // A cache hit, the most frequent case, creates no promise.
      if (known) return void sendCachedText(request, reply, known)
      return wait_for === undefined ? sendNow() : sendAfterWait(wait_for.split(','))

      async function sendNow() {
        const read = () => find(deps.sql.as(environment_id), environment_id, id)
        // A terminated instance disappears after 24 hours without a notification, so it is not cached.
        const response = await cache.fill(environment_id, id, read, show, (row) => row.terminated_at === null)
        if (!response) throw notFound('instance', id)
        return sendCachedText(request, reply, response)
      }
      async function sendAfterWait(statuses: string[]) {
        const row = await waitFor(deps, environment_id, id, statuses, timeout, request.raw)
        if (!row) throw notFound('instance', id)
        return sendObject(request, reply, show(row))
      }
    },
  )
}

/** PUT and PATCH, which do the same. */
function updateRoutes(app: App, deps: Deps): void {
  for (const method of ['PUT', 'PATCH'] as const) {
    app.route({
      method,
      url: '/v2/instances/:id',
      config: {
        scope: 'instances:write',
        problems: [
          'not_in_budget',
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
        return changeInstance(deps, request, reply, 200, (tx, context, target) =>
          updateInstance(tx, context, target, request.body, options),
        )
      },
    })
  }
}

/** DELETE. */
function terminateRoute(app: App, deps: Deps): void {
  app.delete(
    '/v2/instances/:id',
    {
      config: { scope: 'instances:write', problems: ['termination_protected', 'not_in_budget', 'precondition_failed'] },
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
    (request, reply) => changeInstance(deps, request, reply, 202, terminate),
  )
}
