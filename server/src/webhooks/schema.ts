import { type Static, Type } from 'typebox'
import { PATTERNS } from '../events/patterns.ts'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, PreciseTimestamp, ref, Text, Timestamp } from '../http/schemas.ts'
import { ATTEMPT_ERRORS, CAUSES, DELIVERY_STATUSES, DISABLED_REASONS } from './row.ts'

const url = Text({
  minLength: 1,
  maxLength: 2_048,
  description:
    'Where events are sent by POST: https on a usual port of the public internet, without user name, password and fragment. Other addresses, and http, only where the operator allows it.',
  examples: ['https://example.com/hooks/cloudnexus'],
})
const events = Type.Array(OneOf(PATTERNS, 'A type of events, all types of a family (`instance.*`), or all (`*`).'), {
  minItems: 1,
  maxItems: 50,
  uniqueItems: true,
  description: 'Which events are sent. Your key must be able to read each type of them.',
  examples: [['instance.ready', 'instance.terminated']],
})
const description = Text({ maxLength: 256, description: 'For people.', examples: ['shop, production'] })
const enabled = Type.Boolean({ description: 'Whether events are sent. What happens meanwhile can be replayed.' })
const secret = Type.Optional(
  Type.String({
    description:
      'Verifies the signatures (Standard Webhooks): `whsec_` and the key in base64. Store it now: it is shown this once.',
  }),
)
const secretAvailable = Type.Optional(
  Type.Boolean({ description: 'False where the answer is a repeated one, which does not hold the secret any more.' }),
)

const id = Id('whk', 'Identifier.')
const fields = {
  url,
  events,
  description,
  enabled,
  disabled_reason: Nullable(
    OneOf(
      DISABLED_REASONS,
      'Why it was disabled by itself. `gone`: the receiver answered 410. `failing`: nothing but failures for five days. `key_ended`: its key was revoked or has expired.',
    ),
  ),
  disabled_at: Nullable(Timestamp('When that was.')),
  failing_since: Nullable(Timestamp('The first failure since the last success; null: there was none.')),
  previous_secret_until: Nullable(
    Timestamp('Until when the secret before this one signs, too, in real time; null: it was never rotated.'),
  ),
  key_id: Id('key', 'The key whose scopes count: that which made it, or last said where or what it sends.'),
  created_at: Timestamp('When it was made.'),
  updated_at: Timestamp('When it changed last.'),
  version: Type.Integer({ description: 'Rises with every change.', examples: [1] }),
}

export const Webhook = Type.Object(
  { id, ...fields },
  { $id: 'Webhook', description: 'An address that is told of events.', additionalProperties: false },
)
export const WebhookPage = PageOf(Webhook)

export const WebhookWithSecret = Type.Object(
  { id, secret, secret_available: secretAvailable, ...fields },
  { $id: 'WebhookWithSecret', description: 'A webhook with its new secret.', additionalProperties: false },
)

export const WebhookCreate = Type.Object(
  {
    url,
    events,
    description: Type.Optional({ ...description, default: '' }),
    enabled: Type.Optional({ ...enabled, default: true }),
  },
  { $id: 'WebhookCreate', description: 'A webhook to be made.', additionalProperties: false },
)
export type WebhookCreateBody = Static<typeof WebhookCreate>

const ignored = Type.Optional(Type.Unknown({ description: 'Ignored: what GET printed may be sent back.' }))

export const WebhookUpdate = Type.Object(
  {
    url: Type.Optional(url),
    events: Type.Optional(events),
    description: Type.Optional(description),
    enabled: Type.Optional({
      ...enabled,
      description: 'True makes it work again, whatever it was disabled for, and forgets its failures.',
    }),
    ...{ id: ignored, disabled_reason: ignored, disabled_at: ignored, failing_since: ignored, key_id: ignored },
    ...{ previous_secret_until: ignored, created_at: ignored, updated_at: ignored, version: ignored },
  },
  {
    $id: 'WebhookUpdate',
    description: 'What is left out stays; all or nothing.',
    additionalProperties: false,
    examples: [{ events: ['instance.*'], enabled: true }],
  },
)
export type WebhookUpdateBody = Static<typeof WebhookUpdate>

export const WebhookDelivery = Type.Object(
  {
    id: Id('dlv', 'Identifier.'),
    webhook_id: Id('whk', 'The webhook.'),
    event_id: Id('evt', 'The event, and the `webhook-id` of each request.'),
    event_type: Type.String({ description: 'Type of the event.', examples: ['instance.ready'] }),
    event_sequence: Type.Integer({ description: 'Number of the event.', examples: [1042] }),
    cause: OneOf(CAUSES, 'Why it is sent: it happened, it was asked for again, replayed, or a ping.'),
    status: OneOf(DELIVERY_STATUSES, '`failed`: after the last attempt. `cancelled`: not sent any more, see `reason`.'),
    reason: Nullable(
      Type.String({
        description:
          'What was wrong with the last attempt (see its `error`), or why it was cancelled: `disabled`, `scope` (the key may not read that type), `expired` (the event is not kept any more).',
        examples: ['http_status'],
      }),
    ),
    attempt_count: Type.Integer({ description: 'Requests that were made.', examples: [1] }),
    next_attempt_at: Nullable(Timestamp('When the next one is due; null: there is none.')),
    created_at: Timestamp('When it was queued.'),
    finished_at: Nullable(Timestamp('When it came to its end; null: it has not.')),
  },
  { $id: 'WebhookDelivery', description: 'An event on its way to a webhook.', additionalProperties: false },
)
export const WebhookDeliveryPage = PageOf(WebhookDelivery)

const milliseconds = (description: string) => Type.Number({ description, examples: [12.4] })
const headers = (description: string) => Type.Record(Type.String(), Type.String(), { description })

export const WebhookAttempt = Type.Object(
  {
    number: Type.Integer({ description: 'From 1.', examples: [1] }),
    started_at: PreciseTimestamp('When it began, in real time.'),
    duration_ms: milliseconds('Milliseconds until it was over.'),
    dns_ms: Nullable(milliseconds('Milliseconds until the name was resolved and checked; null: it was not.')),
    connect_ms: Nullable(
      milliseconds('Milliseconds until there was a connection, with TLS; null: there was one, or none came about.'),
    ),
    first_byte_ms: Nullable(milliseconds('Milliseconds from the request to the head of the answer; null: none came.')),
    request_headers: headers('What was sent beside the body, without the signature.'),
    response_status: Nullable(Type.Integer({ description: 'HTTP status of the answer.', examples: [200] })),
    response_headers: Type.Union([headers('By name.'), Type.Null()], { description: 'Headers of the answer.' }),
    response_body: Nullable(Type.String({ description: 'The first 4 KiB of the answer.' })),
    error: Nullable(
      OneOf(
        ATTEMPT_ERRORS,
        'What went wrong; null: nothing. `redirect`: it answered 3xx, which is never followed. `http_status`: it answered neither 2xx nor 3xx. `timeout`: it took longer than 15 s altogether.',
      ),
    ),
  },
  { $id: 'WebhookAttempt', description: 'A request that was made to a webhook.', additionalProperties: false },
)

export const WebhookDeliveryDetail = Type.Object(
  {
    ...WebhookDelivery.properties,
    attempts: Type.Array(ref(WebhookAttempt), { description: 'The requests, in their order.' }),
  },
  { $id: 'WebhookDeliveryDetail', description: 'A delivery with all its requests.', additionalProperties: false },
)

export const WebhookPing = Type.Object(
  { event_id: Id('evt', 'The event.'), delivery_id: Id('dlv', 'Its delivery, to see how it goes.') },
  { $id: 'WebhookPing', description: 'A ping that is on its way.', additionalProperties: false },
)

const sequence = (description: string) =>
  Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER, description, examples: [1_042] })

export const WebhookReplayCreate = Type.Object(
  {
    from_sequence: Type.Optional(sequence('The first event.')),
    to_sequence: Type.Optional(sequence('The last event; below the first one there are none.')),
    failed_since: Type.Optional(
      Moment('All that was to be sent from this time on, and has failed or was cancelled, without a later success.'),
    ),
  },
  {
    $id: 'WebhookReplayCreate',
    description: 'A range of numbers, or a time: one of the two.',
    additionalProperties: false,
    if: { properties: { failed_since: true }, required: ['failed_since'] },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
    then: { properties: { failed_since: true, from_sequence: false, to_sequence: false } },
    else: { properties: { from_sequence: true, to_sequence: true }, required: ['from_sequence', 'to_sequence'] },
    examples: [{ from_sequence: 1, to_sequence: 1_042 }],
  },
)
export type WebhookReplayBody = Static<typeof WebhookReplayCreate>

export const WebhookReplay = Type.Object(
  {
    deliveries: Type.Integer({ description: 'How many events are sent again.', examples: [42] }),
    next_sequence: Nullable(
      Type.Integer({ description: 'Where to go on: more were found than one replay takes; null: these were all.' }),
    ),
    until: Nullable(Timestamp('When the last of them is due; they are spread over time. Null: there are none.')),
  },
  { $id: 'WebhookReplay', description: 'What is sent again.', additionalProperties: false },
)

/** Of rotate_secret; may be left out. */
export const RotateSecret = Type.Object(
  {
    overlap_seconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 7 * 86_400,
        default: 86_400,
        description: 'For how long requests are signed with the old secret, too.',
      }),
    ),
  },
  { title: 'RotateSecret', additionalProperties: false, description: 'How to go over to the new secret.' },
)

const words = (list: string) => `^(${list})(,(${list})){0,49}$`
export const deliveryFilters = {
  ...listParameters,
  status: Type.Optional(
    Type.String({
      pattern: words(DELIVERY_STATUSES.join('|')),
      'x-rule': `one or more of ${DELIVERY_STATUSES.join(', ')}, by comma`,
      description: 'Only these, by comma.',
      examples: ['failed'],
    }),
  ),
  type: Type.Optional(
    Type.String({
      pattern: words('[a-z_]{1,32}\\.[a-z_]{1,32}'),
      'x-rule': 'types of events such as instance.ready, by comma',
      description: 'Types of events, by comma.',
      examples: ['instance.ready'],
    }),
  ),
  event: Type.Optional(Id('evt', 'Identifier of an event.')),
}
