import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendObject } from '../http/etag.ts'
import { sendPage, type Window } from '../http/list.ts'
import { ref } from '../http/schemas.ts'
import type { App, Resource } from '../http/types.ts'
import { ApiError, notFound } from '../lib/errors.ts'
import { auditRead } from '../writes/audited-read.ts'
import { findAnyRequest, listAnyRequests, requireOperator } from './any-project.ts'
import { showAnyRequest, showOther, showRequest, showTenant } from './present.ts'
import type { AnyRequestRow } from './row.ts'
import {
  type ListQuery,
  projectParameter,
  Request,
  RequestPage,
  RequestTrace,
  requestFilters,
  type ShownTrace,
  Span,
} from './schema.ts'
import { createSearchSlots } from './search-slots.ts'
import { findRequest, listRequests, NO_TRACE, traceOf } from './store.ts'
import { timeline } from './trace.ts'

const tags = ['Requests']
const scope = 'requests:read'

export const requests: Resource = {
  tag: { name: 'Requests', description: 'Log of API requests, with their responses and effects.' },
  schemas: [Request, RequestPage, Span, RequestTrace],
  routes(app, deps) {
    const search = createSearchSlots()
    listRoute(app, deps, search)
    requestRoute(app, deps, search)
  },
}

type Search = ReturnType<typeof createSearchSlots>

function listRoute(app: App, deps: Deps, search: Search): void {
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
    (request, reply) =>
      search(request.principal.project_id, async () => {
        if (request.query.project) return sendAnyPage(deps, request, reply, request.query)
        await deps.requests.flush()
        const { environment_id } = request.principal
        const sql = deps.sql.as(environment_id)
        const select = (window: Window) => listRequests(sql, environment_id, request.query, window)
        return sendPage(deps, request, reply, select, showRequest)
      }),
  )
}

function requestRoute(app: App, deps: Deps, search: Search): void {
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
        querystring: Type.Object(projectParameter, { additionalProperties: false }),
        response: { 200: ref(RequestTrace) },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const { project_id, environment_id } = request.principal
      const trace = request.query.project ? () => anyTrace(deps, request, id) : () => ownTrace(deps, environment_id, id)
      return sendObject(request, reply, await search(project_id, trace))
    },
  )
}

async function ownTrace(deps: Deps, environmentId: string, id: string): Promise<ShownTrace> {
  await deps.requests.flush()
  const sql = deps.sql.as(environmentId)
  const row = await findRequest(sql, environmentId, id)
  if (!row) throw notFound('request', id)
  const { others, writes, spans, events } = await traceOf(sql, environmentId, row)
  return { ...showRequest(row), spans: timeline(row, writes, spans, events), others: others.map(showOther) }
}

/** Sends a page of the requests of all projects, and records the search. */
async function sendAnyPage(deps: Deps, request: FastifyRequest, reply: FastifyReply, query: ListQuery) {
  const sql = deps.sql.as(request.principal.environment_id)
  await requireOperator(sql, request.principal)
  await deps.requests.flush()
  const { cursor: _, limit: __, sort: ___, ...searched } = query
  const select = (window: Window) => listAnyRequests(sql, query, window)
  const page = await sendPage(deps, request, reply, select, showAnyRequest)
  await auditRead(deps, request, { resource: null, status: 200, searched })
  return page
}

/** The trace of a request of any project, read in the environment of that request; records the search. */
async function anyTrace(deps: Deps, request: FastifyRequest, id: string): Promise<ShownTrace> {
  const sql = deps.sql.as(request.principal.environment_id)
  await requireOperator(sql, request.principal)
  await deps.requests.flush()
  const found = await findAnyRequest(sql, id)
  const outcome = found ? { resource: found.row.id, status: 200 as const } : { resource: null, status: 404 as const }
  await auditRead(deps, request, { ...outcome, searched: { project: 'any', id } })
  if (!found) throw new ApiError('not_found', `No request with the ID ${JSON.stringify(id)} exists in any project.`)
  const { row, others } = found
  const { writes, spans, events } = await traceInItsEnvironment(deps, row)
  const shownOthers = others.map((other) => ({ ...showOther(other), ...showTenant(other) }))
  return { ...showAnyRequest(row), spans: timeline(row, writes, spans, events), others: shownOthers }
}

/** A request without a valid key belongs to no environment and has no effects. */
function traceInItsEnvironment(deps: Deps, row: AnyRequestRow) {
  const { environment_id } = row
  return environment_id === null ? NO_TRACE : traceOf(deps.sql.as(environment_id), environment_id, row)
}
