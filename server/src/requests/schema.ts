import { type Static, Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, PreciseTimestamp, ref } from '../http/schemas.ts'
import { CATALOGUE } from '../lib/errors.ts'
import { RECORDED_KINDS, WAITS } from './row.ts'

const WORD = '[A-Za-z0-9._-]{1,128}'
const list = (word: string) => `^(${word})(,(${word})){0,49}$`

const requestFields = {
  id: Id('req', 'Unique ID of the request.'),
  request_id: Type.String({
    description: 'X-Request-ID of the client, which need not be unique. Default: same as `id`.',
    examples: ['checkout-4711'],
  }),
  created_at: PreciseTimestamp('Start time, in real time.'),
  method: Type.String({ description: 'HTTP method.', examples: ['POST'] }),
  route: Nullable(
    Type.String({
      description: 'Pattern of the URL path; null if no route matched.',
      examples: ['/v2/instances/:id'],
    }),
  ),
  resource: Nullable(
    Type.String({
      description: 'ID of the resource in the URL path, or of the created resource.',
      examples: ['inst_3x9y2z1a0b'],
    }),
  ),
  key_id: Nullable(Id('key', 'API key of the request.')),
  status: Type.Integer({ description: 'HTTP status of the response.', examples: [201] }),
  code: Nullable(Type.String({ description: 'Error code of the response; null on success.' })),
  duration_ms: Type.Number({ description: 'Milliseconds until the response was sent.', examples: [12.4] }),
  address: Type.String({ description: 'IP address of the client.', examples: ['203.0.113.7'] }),
  user_agent: Nullable(Type.String({ description: 'User-Agent header, truncated to 256 characters.' })),
  aborted: Type.Boolean({
    description:
      'Whether the client disconnected before the response was sent. `status` is that of the unsent response.',
  }),
  sampled: Type.Boolean({ description: 'Whether only a fraction of such requests was recorded at that time.' }),
  sample_rate: Type.Number({
    description:
      'Fraction of such requests that was recorded. The sum of 1 / sample_rate estimates the number of requests.',
    examples: [1],
  }),
}

const ONLY_ANY = 'Only with `project=any`; null if the request had no valid key.'
/** Whose request it is, for the operator. */
const tenantFields = {
  project_id: Type.Optional(Nullable(Id('proj', `Project of the API key. ${ONLY_ANY}`))),
  environment: Type.Optional(Nullable(OneOf(['live', 'test'], `Environment of the API key. ${ONLY_ANY}`))),
}

export const Request = Type.Object(
  { ...requestFields, ...tenantFields },
  {
    $id: 'Request',
    description:
      'A request and its response. All writes and failures are recorded. Successful reads are sampled above 1,000 per second.',
    additionalProperties: false,
  },
)
export const RequestPage = PageOf(Request)

const SPAN_KINDS = ['call', 'transaction', ...RECORDED_KINDS, ...WAITS, 'event'] as const

export const Span = Type.Object(
  {
    name: Type.String({ description: 'What happened.', examples: ['start'] }),
    kind: OneOf(
      SPAN_KINDS,
      '`call`: the request itself. `transaction`: its database transaction. `step`: an action of the engine. `ready`: the guest was observed to be ready. `status`: another final status was observed. `queue`: waiting for the engine. `image`: waiting for the image. `boot`: waiting for the guest to boot. `shutdown`: waiting for the guest to power off. `retry`: waiting after a failure. `event`: an event was emitted. `delivery`: an event was sent to a webhook.',
    ),
    parent: Nullable(Type.String({ description: '`name` of the parent span; null at the top level.' })),
    started_at: PreciseTimestamp('Start time, in real time.'),
    duration_ms: Nullable(Type.Number({ description: 'Milliseconds; null while the span is open.', examples: [8.2] })),
    resource: Nullable(Type.String({ description: 'ID of the resource.', examples: ['inst_3x9y2z1a0b'] })),
    status: OneOf(['ok', 'failed', 'open'], '`open`: not ended yet.'),
    detail: Type.Record(Type.String(), Type.Unknown(), { description: 'Further fields, which depend on the kind.' }),
  },
  { $id: 'Span', description: 'A part of the trace of a request.', additionalProperties: false },
)

const OtherRequest = Type.Object(
  {
    id: requestFields.id,
    created_at: requestFields.created_at,
    method: requestFields.method,
    route: requestFields.route,
    status: requestFields.status,
    ...tenantFields,
  },
  { additionalProperties: false },
)

export const RequestTrace = Type.Object(
  {
    ...requestFields,
    ...tenantFields,
    spans: Type.Array(ref(Span), {
      description:
        'Spans in chronological order. From the end of the call on, the top-level spans of one resource, including waits, have no gaps: together with the call they add up to the time until `ready`.',
    }),
    others: Type.Array(OtherRequest, { description: 'Requests with the same `request_id`, newest first, at most 20.' }),
  },
  { $id: 'RequestTrace', description: 'A request and all its effects so far.', additionalProperties: false },
)

const filters = {
  status: Type.Optional(
    Type.String({
      pattern: list('[1-5]xx|[1-5][0-9]{2}'),
      'x-rule': 'statuses such as 404 or 5xx, separated by commas',
      description: 'Filter by HTTP status or class, separated by commas.',
      examples: ['409,5xx'],
    }),
  ),
  resource: Type.Optional(words('Filter by resource ID, separated by commas.', 'inst_3x9y2z1a0b')),
  key: Type.Optional(words('Filter by API key ID, separated by commas.', 'key_3x9y2z1a0b')),
  method: Type.Optional(
    Type.String({
      pattern: list('[A-Z]{1,16}'),
      'x-rule': 'methods such as GET or POST, separated by commas',
      description: 'Filter by HTTP method, separated by commas.',
      examples: ['POST,DELETE'],
    }),
  ),
  route: Type.Optional(
    Type.String({
      pattern: '^/[A-Za-z0-9_./:,-]{0,500}$',
      'x-rule': 'patterns such as /v2/instances/:id, separated by commas',
      description: 'Filter by route pattern, as in `route`, separated by commas.',
      examples: ['/v2/instances/:id'],
    }),
  ),
  request_id: Type.Optional(words('Filter by X-Request-ID, separated by commas.', 'checkout-4711')),
  code: Type.Optional(
    Type.String({
      pattern: list('[a-z_]{1,64}'),
      'x-rule': 'error codes, separated by commas',
      description: 'Filter by error code, separated by commas.',
      examples: [Object.keys(CATALOGUE)[0]],
    }),
  ),
  from: Type.Optional(Moment('Only requests that started at this time or later.')),
  to: Type.Optional(Moment('Only requests that started before this time.')),
}

/** The parameter with which the operator reads the requests of all projects. */
export const projectParameter = {
  project: Type.Optional({
    ...OneOf(
      ['any'],
      'With `any`: of all projects, and also requests without a valid key. Requires a key of the first project, that of the operator, with the scope `admin` too. Each use is recorded in the audit log of the key.',
    ),
    'x-scope': 'admin',
  }),
}

export const requestFilters = { ...filters, ...projectParameter, ...listParameters }
export type Filters = Static<ReturnType<typeof filterObject>>
const filterObject = () => Type.Object(filters)
export type ListQuery = Static<ReturnType<typeof queryObject>>
const queryObject = () => Type.Object(requestFilters)

export type ShownRequest = Static<typeof Request>
export type ShownTrace = Static<typeof RequestTrace>
export type ShownSpan = Static<typeof Span>

function words(description: string, example: string) {
  return Type.String({
    pattern: list(WORD),
    'x-rule': 'one or more of these, separated by commas',
    description,
    examples: [example],
  })
}
