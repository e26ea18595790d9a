import type { Static } from 'typebox'
import type { Deps } from '../deps.ts'
import { Nullable, ref } from '../http/schemas.ts'
import type { App } from '../http/types.ts'
import { act, rebuild } from './change.ts'
import { changeInstance, params, tags } from './route-writes.ts'
import { Instance, NoOptions, PowerAction, Rebuild } from './schema.ts'

const ACTIONS = {
  start: 'Starts a stopped or failed instance.',
  stop: 'Shuts down the guest, and stops it by force after `timeout_seconds`.',
  reboot: 'Shuts down the guest and starts it again.',
} as const

/** Start, stop, reboot and rebuild. */
export function actionRoutes(app: App, deps: Deps): void {
  for (const action of Object.keys(ACTIONS) as (keyof typeof ACTIONS)[]) {
    app.post(
      `/v2/instances/:id/actions/${action}`,
      {
        config: { scope: 'instances:write', problems: ['invalid_state', 'not_in_budget', 'precondition_failed'] },
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
        return changeInstance(deps, request, reply, 202, (tx, context, target) =>
          act(tx, context, target, action, body),
        )
      },
    )
  }

  app.post(
    '/v2/instances/:id/actions/rebuild',
    {
      config: { scope: 'instances:write', problems: ['invalid_state', 'not_in_budget', 'precondition_failed'] },
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
      changeInstance(deps, request, reply, 202, (tx, context, target) =>
        rebuild(tx, context, target, request.body ?? {}),
      ),
  )
}
