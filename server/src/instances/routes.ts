import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendPage } from '../http/list.ts'
import { dryRun, ref } from '../http/schemas.ts'
import type { App, Resource } from '../http/types.ts'
import { created, write } from '../writes/write.ts'
import { actionRoutes } from './action-routes.ts'
import { consoleLogRoute } from './console-log-routes.ts'
import { createInstance } from './create.ts'
import { instanceRoutes } from './instance-routes.ts'
import { listInstances } from './list.ts'
import { present } from './present.ts'
import { preview, tags } from './route-writes.ts'
import {
  Instance,
  InstanceCreate,
  InstanceOrPlan,
  InstancePage,
  InstancePlan,
  InstanceUpdate,
  instanceFilters,
} from './schema.ts'

export const instances: Resource = {
  tag: { name: 'Instances', description: 'Virtual machines.' },
  schemas: [Instance, InstancePage, InstanceCreate, InstanceUpdate, InstancePlan, InstanceOrPlan],
  routes(app, deps) {
    collectionRoutes(app, deps)
    instanceRoutes(app, deps)
    actionRoutes(app, deps)
    consoleLogRoute(app, deps)
  },
}

/** List and create. */
function collectionRoutes(app: App, deps: Deps): void {
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
        (row) => present(row, deps.config),
      )
    },
  )

  app.post(
    '/v2/instances',
    {
      config: {
        scope: 'instances:write',
        limits: ['creates', 'writes'],
        problems: ['capacity_exhausted', 'invalid_state'],
      },
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
        if (request.query.dry_run) return preview(deps, request, tx, outbox, { before: null, after, status: 201 })
        const shown = present(after, deps.config)
        return created(shown, shown.links.self)
      }),
  )
}
