import { Type } from 'typebox'
import { listParameters, Pagination } from '../http/list.ts'
import { Id, Nullable, OneOf, ref, Text, Timestamp } from '../http/schemas.ts'
import { EVENT_TYPES } from './catalog.ts'
import { PATTERNS } from './patterns.ts'

const fields = (description: string) => Type.Object({}, { description, additionalProperties: true })

export const Event = Type.Object(
  {
    id: Id('evt', 'Unique identifier of the event; the same in every delivery.'),
    type: Type.String({
      description: `What happened. Ignore types that you do not handle: later versions add types. ${Object.entries(
        EVENT_TYPES,
      )
        .map(([type, text]) => `\`${type}\`: ${text}`)
        .join(' ')}`,
      examples: ['instance.ready'],
    }),
    environment: OneOf(['live', 'test'], 'The environment of the resource.'),
    created_at: Timestamp("When the event occurred, in the environment's time."),
    sequence: Type.Integer({
      description:
        'Sequence number of the event in its environment. It increases by one with each event, in commit order.',
      examples: [1042],
    }),
    request_id: Nullable(
      Type.String({ description: 'X-Request-ID of the request that caused the event; null if no request did.' }),
    ),
    data: Type.Object(
      {
        object: Type.Object(
          { object: Type.String({ description: 'Type of the resource.', examples: ['instance'] }) },
          { description: 'The resource as the API returned it at that time.', additionalProperties: true },
        ),
        previous: Type.Optional(fields('The previous values of the fields that changed.')),
        details: Type.Optional(fields('Further fields of some types, as described under `type`.')),
      },
      { description: 'The resource and what changed.', additionalProperties: false },
    ),
  },
  {
    $id: 'Event',
    description: 'A change of a resource. An event has the same bytes in every response, stream and delivery.',
    additionalProperties: false,
  },
)

export const EventPage = Type.Object(
  {
    data: Type.Array(ref(Event)),
    pagination: ref(Pagination),
    next_after: Type.Integer({
      description:
        'The sequence number up to which events were searched, including those that the filters exclude. Pass it as `after` to continue from here at any later time.',
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
      description: `Only events with a greater sequence number. ${more} If later events were already deleted: 410 \`events_expired\`; if it is greater than the number of the newest event: 409 \`events_ahead\`.`,
    }),
  )

const type = Type.Optional(
  Type.String({
    maxLength: 1_000,
    pattern: `^(${pattern})(,(${pattern}))*$`,
    'x-rule': `one or more of ${PATTERNS.join(', ')}, separated by commas`,
    description:
      'Only events of these types, separated by commas: exact types, all types of a family such as `instance.*`, or `*`.',
    examples: ['instance.ready,webhook.*'],
  }),
)
const resource = Type.Optional(Text({ maxLength: 100, description: 'Only events of the resource with this ID.' }))

/** Parameters of the list of one resource's events. */
export const resourceEventParameters = {
  ...listParameters,
  after: after('The list is then in ascending order, whatever `sort` is; `cursor` returns further pages.'),
  type,
}
export const eventParameters = { ...resourceEventParameters, resource }
export const streamParameters = {
  after: after('Without it and without `Last-Event-ID`, the stream starts with new events.'),
  type,
  resource,
}

/** Where a client resumes after an interruption. An empty header counts as absent. */
export const streamHeaders = {
  'last-event-id': Type.Optional(
    Type.String({
      pattern: '^([0-9]{1,15})?$',
      maxLength: 15,
      'x-rule': 'the last id of the stream, a sequence number',
      description:
        'The last `id` that the client received. EventSource sends it automatically. It takes precedence over `after`.',
      examples: ['1042'],
    }),
  ),
}
