import { type Static, Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, PreciseTimestamp, ref } from '../http/schemas.ts'
import { CATALOGUE } from '../lib/errors.ts'
import { RECORDED_KINDS, WAITS } from './row.ts'

const WORD = '[A-Za-z0-9._-]{1,128}'
const list = (word: string) => `^(${word})(,(${word})){0,49}$`

const requestFields = {
  id: Id('req', 'Unique identifier of the request.'),
  request_id: Type.String({
    description: 'The X-Request-ID that the client gave, which others may have, too; else the same as `id`.',
    examples: ['checkout-4711'],
  }),
  created_at: PreciseTimestamp('When it began, in real time.'),
  method: Type.String({ description: 'HTTP method.', examples: ['POST'] }),
  route: Nullable(
    Type.String({
      description: 'Pattern of the address; null when no route took it.',
      examples: ['/v2/instances/:id'],
    }),
  ),
  resource: Nullable(
    Type.String({ description: 'What the path names, or what the request has made.', examples: ['inst_3x9y2z1a0b'] }),
  ),
  key_id: Nullable(Id('key', 'The API key.')),
  status: Type.Integer({ description: 'HTTP status of the answer.', examples: [201] }),
  code: Nullable(Type.String({ description: '`code` of the problem in the answer; null for a success.' })),
  duration_ms: Type.Number({ description: 'Milliseconds until the answer was sent.', examples: [12.4] }),
  address: Type.String({ description: 'Address that the request came from.', examples: ['203.0.113.7'] }),
  user_agent: Nullable(Type.String({ description: 'What the client calls itself, cut to 256 characters.' })),
  aborted: Type.Boolean({
    description: 'The client left before the answer was sent; `status` is what it would have got.',
  }),
  sampled: Type.Boolean({ description: 'Only a share of such requests was recorded at that moment.' }),
  sample_rate: Type.Number({
    description: 'That share; 1 when all were. The sum of 1 / sample_rate estimates how many requests there were.',
    examples: [1],
  }),
}

export const Request = Type.Object(requestFields, {
  $id: 'Request',
  description:
    'A request as it was answered. All writes and failures are recorded, and successful reads up to 1,000 a second; of more than that, a share.',
  additionalProperties: false,
})
export const RequestPage = PageOf(Request)

const SPAN_KINDS = ['call', 'transaction', ...RECORDED_KINDS, ...WAITS, 'event'] as const

export const Span = Type.Object(
  {
    name: Type.String({ description: 'What happened.', examples: ['start'] }),
    kind: OneOf(
      SPAN_KINDS,
      '`call`: the request itself. `transaction`: its writing in the database. `step`: the engine did something. `ready`: the look that saw the guest up. `status`: the look that saw another end of the way. `queue`: waiting for the engine. `image`: waiting for the image. `boot`: waiting for the guest. `shutdown`: waiting for the guest to power off. `retry`: waiting after a failure. `event`: told to whoever listens. `delivery`: sent to a webhook.',
    ),
    parent: Nullable(
      Type.String({ description: '`name` of the span that this one is a part of; null at the top level.' }),
    ),
    started_at: PreciseTimestamp('When it began, in real time.'),
    duration_ms: Nullable(Type.Number({ description: 'Milliseconds; null while it goes on.', examples: [8.2] })),
    resource: Nullable(Type.String({ description: 'What it is about.', examples: ['inst_3x9y2z1a0b'] })),
    status: OneOf(['ok', 'failed', 'open'], '`open`: it goes on.'),
    detail: Type.Record(Type.String(), Type.Unknown(), { description: 'More about it, by kind.' }),
  },
  { $id: 'Span', description: 'A part of what a request caused.', additionalProperties: false },
)

const OtherRequest = Type.Object(
  {
    id: requestFields.id,
    created_at: requestFields.created_at,
    method: requestFields.method,
    route: requestFields.route,
    status: requestFields.status,
  },
  { additionalProperties: false },
)

export const RequestTrace = Type.Object(
  {
    ...requestFields,
    spans: Type.Array(ref(Span), {
      description:
        'The story in order of time. Spans of one resource at the top level follow each other without gaps from the end of the call, waits included: with the call they add up to the time from its begin to `ready`.',
    }),
    others: Type.Array(OtherRequest, { description: 'Requests with the same `request_id`, newest first, at most 20.' }),
  },
  { $id: 'RequestTrace', description: 'A request and all that it has caused so far.', additionalProperties: false },
)

const filters = {
  status: Type.Optional(
    Type.String({
      pattern: list('[1-5]xx|[1-5][0-9]{2}'),
      'x-rule': 'statuses such as 404 or 5xx, by comma',
      description: 'HTTP statuses or their classes, by comma.',
      examples: ['409,5xx'],
    }),
  ),
  resource: Type.Optional(words('Identifiers of resources, by comma.', 'inst_3x9y2z1a0b')),
  key: Type.Optional(words('Identifiers of API keys, by comma.', 'key_3x9y2z1a0b')),
  method: Type.Optional(
    Type.String({
      pattern: list('[A-Z]{1,16}'),
      'x-rule': 'methods such as GET or POST, by comma',
      description: 'HTTP methods, by comma.',
      examples: ['POST,DELETE'],
    }),
  ),
  route: Type.Optional(
    Type.String({
      pattern: '^/[A-Za-z0-9_./:,-]{0,500}$',
      'x-rule': 'patterns such as /v2/instances/:id, by comma',
      description: 'Patterns of addresses, as `route` shows them, by comma.',
      examples: ['/v2/instances/:id'],
    }),
  ),
  request_id: Type.Optional(words('Request ids as clients know them, by comma.', 'checkout-4711')),
  code: Type.Optional(
    Type.String({
      pattern: list('[a-z_]{1,64}'),
      'x-rule': 'codes of problems, by comma',
      description: `Codes of problems, by comma.`,
      examples: [Object.keys(CATALOGUE)[0]],
    }),
  ),
  from: Type.Optional(Moment('Begun at this time or later.')),
  to: Type.Optional(Moment('Begun before this time.')),
}

export const requestFilters = { ...filters, ...listParameters }
export type Filters = Static<ReturnType<typeof filterObject>>
const filterObject = () => Type.Object(filters)

export type ShownRequest = Static<typeof Request>
export type ShownSpan = Static<typeof Span>

function words(description: string, example: string) {
  return Type.String({
    pattern: list(WORD),
    'x-rule': 'one or more of these, by comma',
    description,
    examples: [example],
  })
}
