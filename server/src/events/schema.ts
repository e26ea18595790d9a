import { Type } from 'typebox'
import { listParameters, Pagination } from '../http/list.ts'
import { Id, Nullable, OneOf, ref, Text, Timestamp } from '../http/schemas.ts'
import { EVENT_TYPES } from './catalog.ts'
import { PATTERNS } from './patterns.ts'

const fields = (description: string) => Type.Object({}, { description, additionalProperties: true })

export const Event = Type.Object(
  {
    id: Id('evt', 'Unique identifier of the event; the same in every repetition.'),
    type: Type.String({
      description: `What has happened. There will be more types than these. ${Object.entries(EVENT_TYPES)
        .map(([type, text]) => `\`${type}\`: ${text}`)
        .join(' ')}`,
      examples: ['instance.ready'],
    }),
    environment: OneOf(['live', 'test'], 'Where it has happened.'),
    created_at: Timestamp("When, in the environment's time."),
    sequence: Type.Integer({
      description: 'Number of the event in its environment: rises by one with each, in the order of commits.',
      examples: [1042],
    }),
    request_id: Nullable(
      Type.String({ description: 'X-Request-ID of the request that has caused it; null: none has.' }),
    ),
    data: Type.Object(
      {
        object: Type.Object(
          { object: Type.String({ description: 'Type of the resource.', examples: ['instance'] }) },
          { description: 'The resource as the API showed it then.', additionalProperties: true },
        ),
        previous: Type.Optional(fields('What has changed, as it was before.')),
        details: Type.Optional(
          fields(
            'More, by type. `instance.scaled`: `from` and `to`, each with plan, vcpus, memory_bytes, disk_bytes. `instance.recovering` and `instance.recovered`: `cause`, `attempt`, `detected_at`, and at the end `downtime_seconds`.',
          ),
        ),
      },
      { description: 'What it is about.', additionalProperties: false },
    ),
  },
  {
    $id: 'Event',
    description: 'Something that has happened. The bytes are the same in every answer, stream and delivery.',
    additionalProperties: false,
  },
)

export const EventPage = Type.Object(
  {
    data: Type.Array(ref(Event)),
    pagination: ref(Pagination),
    next_after: Type.Integer({
      description:
        'Up to this sequence the list has looked, filters or not: give it as `after` to go on from here at any later time.',
      examples: [1042],
    }),
  },
  { $id: 'EventPage', description: 'A page of a list of Event.', additionalProperties: false },
)

const pattern = PATTERNS.map((each) => each.replace(/[.*]/g, '\\$&')).join('|')

const after = (more: string) =>
  Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: Number.MAX_SAFE_INTEGER,
      description: `Only events beyond this sequence. ${more} Older than what is kept: 410 \`events_expired\`.`,
    }),
  )

const type = Type.Optional(
  Type.String({
    maxLength: 1_000,
    pattern: `^(${pattern})(,(${pattern}))*$`,
    'x-rule': `one or more of ${PATTERNS.join(', ')}, by comma`,
    description: 'Only these types, by comma: exact ones, all of a resource such as `instance.*`, or `*`.',
    examples: ['instance.ready,webhook.*'],
  }),
)
const resource = Type.Optional(Text({ maxLength: 100, description: 'Identifier of a resource.' }))

/** Parameters of the list of one resource's events. */
export const resourceEventParameters = {
  ...listParameters,
  after: after('They come in ascending order then, whatever `sort` says; `cursor` goes on with further pages.'),
  type,
}
export const eventParameters = { ...resourceEventParameters, resource }
export const streamParameters = {
  after: after('Without it, and without `Last-Event-ID`: only new ones.'),
  type,
  resource,
}

/** Where a reader that was interrupted goes on. An empty one is none. */
export const streamHeaders = {
  'last-event-id': Type.Optional(
    Type.String({
      pattern: '^([0-9]{1,15})?$',
      maxLength: 15,
      'x-rule': 'the id of an event of this stream, a sequence',
      description: 'The last `id` that was received; EventSource sends it by itself. It goes before `after`.',
      examples: ['1042'],
    }),
  ),
}
