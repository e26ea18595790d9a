import { Type } from 'typebox'
import { sendCachedText } from '../http/etag.ts'
import { Id, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import type { ErrorCode } from '../lib/errors.ts'
import { notFound } from '../lib/errors.ts'
import { RESUME, sendEvents } from './list.ts'
import { visibleTypes } from './patterns.ts'
import { Event, EventPage, eventParameters, streamHeaders, streamParameters } from './schema.ts'
import { findEvent } from './store.ts'
import { createStreams } from './stream.ts'

const tags = ['Events']
const scope = 'events:read'
const problems: ErrorCode[] = ['events_expired', 'events_ahead']

const querystring = Type.Object(eventParameters, { additionalProperties: false })

export const events: Resource = {
  tag: { name: 'Events', description: 'Changes of resources, numbered without gaps.' },
  schemas: [Event, EventPage],
  routes(app, deps) {
    const openStream = createStreams(deps)

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
      (request, reply) => sendEvents(deps, request, reply, request.query.resource ?? null),
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
  },
}
