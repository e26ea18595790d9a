import { Type } from 'typebox'
import { RESUME, sendEvents } from '../events/list.ts'
import { EventPage, resourceEventParameters } from '../events/schema.ts'
import { Id, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { find } from './store.ts'

export const instanceEvents: Resource = {
  schemas: [],
  routes(app, deps) {
    app.get(
      '/v2/instances/:id/events',
      {
        config: { scope: 'instances:read', problems: ['events_expired', 'events_ahead'] },
        schema: {
          operationId: 'listInstanceEvents',
          summary: 'List the events of an instance',
          description: `Events of one instance. ${RESUME}`,
          tags: ['Events'],
          params: Type.Object({ id: Id('inst', 'Unique identifier of the instance.') }),
          querystring: Type.Object(resourceEventParameters, { additionalProperties: false }),
          response: { 200: ref(EventPage) },
        },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const row = await find(deps.sql.as(environment_id), environment_id, request.params.id)
        if (!row) throw notFound('instance', request.params.id)
        return sendEvents(deps, request, reply, row.id)
      },
    )
  },
}
