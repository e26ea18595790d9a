import { Type } from 'typebox'
import { sendObject } from '../http/etag.ts'
import { sendPage } from '../http/list.ts'
import { ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { showOther, showRequest } from './present.ts'
import { Request, RequestPage, RequestTrace, requestFilters, Span } from './schema.ts'
import { findRequest, listRequests, traceOf } from './store.ts'
import { timeline } from './trace.ts'

const tags = ['Requests']
const scope = 'requests:read'

export const requests: Resource = {
  tag: { name: 'Requests', description: 'Log of API requests, with their responses and effects.' },
  schemas: [Request, RequestPage, Span, RequestTrace],
  routes(app, deps) {
    app.get(
      '/v2/requests',
      {
        config: { scope },
        schema: {
          operationId: 'listRequests',
          summary: 'List requests',
          description: 'Lists the requests of all keys of this environment. Requests are kept for 14 days by default.',
          tags,
          querystring: Type.Object(requestFilters, { additionalProperties: false }),
          response: { 200: ref(RequestPage) },
        },
      },
      async (request, reply) => {
        await deps.requests.flush()
        const { environment_id } = request.principal
        const sql = deps.sql.as(environment_id)
        const select = (window: Parameters<typeof listRequests>[3]) =>
          listRequests(sql, environment_id, request.query, window)
        return sendPage(deps, request, reply, select, showRequest)
      },
    )

    app.get(
      '/v2/requests/:id',
      {
        config: { scope },
        schema: {
          operationId: 'getRequest',
          summary: 'Get a request and its trace',
          description:
            'Returns a request by its ID or its X-Request-ID; if several have the same X-Request-ID, the newest. The trace also contains effects that happen after the response.',
          tags,
          params: Type.Object({
            id: Type.String({
              pattern: '^[A-Za-z0-9._-]{1,128}$',
              description: 'ID or X-Request-ID of the request.',
              examples: ['req_3x9y2z1a0b5c7d8e4f6g'],
            }),
          }),
          response: { 200: ref(RequestTrace) },
        },
      },
      async (request, reply) => {
        await deps.requests.flush()
        const { environment_id } = request.principal
        const sql = deps.sql.as(environment_id)
        const row = await findRequest(sql, environment_id, request.params.id)
        if (!row) throw notFound('request', request.params.id)
        const { others, writes, spans, events } = await traceOf(sql, environment_id, row)
        const trace = timeline(row, writes, spans, events)
        return sendObject(request, reply, { ...showRequest(row), spans: trace, others: others.map(showOther) })
      },
    )
  },
}
