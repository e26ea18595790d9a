import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Static, Type } from 'typebox'
import { sendCachedText, sendText } from '../http/etag.ts'
import { commaList, sendPage, type Window } from '../http/list.ts'
import { Id, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { find } from '../instances/store.ts'
import { notFound } from '../lib/errors.ts'
import { visibleTypes } from './patterns.ts'
import {
  Event,
  EventPage,
  eventParameters,
  resourceEventParameters,
  streamHeaders,
  streamParameters,
} from './schema.ts'
import { checkKept, findEvent, readEvents } from './store.ts'
import { createStreams } from './stream.ts'

const tags = ['Events']
const scope = 'events:read'
const problems = ['events_expired' as const]

const querystring = Type.Object(eventParameters, { additionalProperties: false })
const RESUME =
  'To read every event, pass the `next_after` of each response as `after` in the next request. The list contains only events of resources that the key may read, so sequence numbers can have gaps. No event is ever added below a number that was already returned.'

export const events: Resource = {
  schemas: [Event, EventPage],
  routes(app, deps) {
    const openStream = createStreams(deps)

    /** Sends a page of events, joined from their JSON texts. */
    async function sendEvents(request: FastifyRequest, reply: FastifyReply, resource: string | null): Promise<never> {
      const { principal } = request
      const query = request.query as Static<typeof querystring>
      const filters = { types: visibleTypes(principal.scopes, commaList(query.type)), resource }
      const after = query.after ?? null
      const isAscending = after !== null || query.sort === 'created_at'
      let last = 0
      const select = async (page: Window) => {
        const window = { ...page, after: page.after ?? after, descending: !isAscending }
        const found = await readEvents(deps.sql.as(principal.environment_id), principal, filters, window)
        if (after !== null) checkKept(window.after!, found)
        last = Math.max(after ?? 0, found.last)
        return found.events
      }
      const { data, pagination } = await sendPage(deps, request, reply, select, (event) => event)
      const next_after = isAscending && pagination.has_more ? data.at(-1)!.ordinal : last
      const rest = JSON.stringify({ pagination, next_after }).slice(1)
      return sendText(reply, `{"data":[${data.map(({ text }) => text).join(',')}],${rest}`)
    }

    app.get(
      '/v2/events',
      {
        config: { scope, problems },
        schema: {
          operationId: 'listEvents',
          summary: 'List events',
          description: `Events of the environment, kept for 30 days by default. ${RESUME}`,
          tags,
          querystring,
          response: { 200: ref(EventPage) },
        },
      },
      (request, reply) => sendEvents(request, reply, request.query.resource ?? null),
    )

    app.get(
      '/v2/events/stream',
      {
        config: { scope, problems },
        schema: {
          operationId: 'streamEvents',
          summary: 'Stream events',
          description:
            'Server-sent events (`text/event-stream`) in ascending order: `id` is the sequence number, `event` the type, `data` the event. After 15 seconds without an event the server sends a heartbeat, with an `id` and no data. The stream ends after an hour, when the service restarts, and when the key is revoked or expires. To miss no event, reconnect with the last `id` as `Last-Event-ID`.',
          tags,
          headers: Type.Object(streamHeaders),
          querystring: Type.Object(streamParameters, { additionalProperties: false }),
          response: {
            200: { description: 'A stream of events.', content: { 'text/event-stream': { schema: Type.String() } } },
          },
        },
      },
      async (request, reply) => {
        const lastId = request.headers['last-event-id']
        const after = lastId ? Number(lastId) : (request.query.after ?? null)
        const stream = await openStream(request, reply.raw, request.query, after)
        reply.type('text/event-stream').headers({ 'cache-control': 'no-store', 'x-accel-buffering': 'no' })
        return reply.send(stream as never) as never
      },
    )

    app.get(
      '/v2/events/:id',
      {
        config: { scope },
        schema: {
          operationId: 'getEvent',
          summary: 'Get an event',
          tags,
          params: Type.Object({ id: Id('evt', 'Unique identifier of the event.') }),
          response: { 200: ref(Event) },
        },
      },
      async (request, reply) => {
        const { principal, params } = request
        const event = await findEvent(deps.sql.as(principal.environment_id), principal, params.id)
        const visible = visibleTypes(principal.scopes, null)
        const isVisible = event !== null && (visible === null || visible.some((type) => type === event.type))
        if (!isVisible) throw notFound('event', params.id)
        return sendCachedText(request, reply, { etag: `"${params.id}"`, text: event.text })
      },
    )

    app.get(
      '/v2/instances/:id/events',
      {
        config: { scope: 'instances:read', problems },
        schema: {
          operationId: 'listInstanceEvents',
          summary: 'List the events of an instance',
          description: `Events of one instance. ${RESUME}`,
          tags,
          params: Type.Object({ id: Id('inst', 'Unique identifier of the instance.') }),
          querystring: Type.Object(resourceEventParameters, { additionalProperties: false }),
          response: { 200: ref(EventPage) },
        },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const row = await find(deps.sql.as(environment_id), environment_id, request.params.id)
        if (!row) throw notFound('instance', request.params.id)
        return sendEvents(request, reply, row.id)
      },
    )
  },
}
