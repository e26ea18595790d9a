import { type Static, Type } from 'typebox'
import { PATTERNS } from '../events/patterns.ts'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, PreciseTimestamp, ref, Text, Timestamp } from '../http/schemas.ts'
import { ATTEMPT_ERRORS, CAUSES, DELIVERY_STATUSES, DISABLED_REASONS } from './row.ts'

const url = Text({
  minLength: 1,
  maxLength: 2_048,
  description:
    'The URL that receives events by POST. It must use https and resolve to public IP addresses; the port is 443, 80 or above 1023; a user name, password or fragment is not allowed. The operator can allow http and other IP addresses.',
  examples: ['https://example.com/hooks/cloudnexus'],
})
const events = Type.Array(OneOf(PATTERNS, 'An event type, all types of a family (`instance.*`), or all types (`*`).'), {
  minItems: 1,
  maxItems: 50,
  uniqueItems: true,
  description: 'The event types to send. Your key must have the read scope of each type.',
  examples: [['instance.ready', 'instance.terminated']],
})
const description = Text({ maxLength: 256, description: 'Free text for your own use.', examples: ['shop, production'] })
const enabled = Type.Boolean({
  description: 'Whether events are sent. Events that occur while the webhook is disabled can be replayed.',
})
const secret = Type.Optional(
  Type.String({
    description:
      'The key that verifies the signatures (Standard Webhooks): `whsec_` followed by 32 bytes in base64. Store it now: it is returned only once.',
  }),
)
const secretAvailable = Type.Optional(
  Type.Boolean({
    description: 'False when this is the stored response of an earlier request; the secret is not stored with it.',
  }),
)

const id = Id('whk', 'Unique identifier of the webhook.')
const fields = {
  url,
  events,
  description,
  enabled,
  disabled_reason: Nullable(
    OneOf(
      DISABLED_REASONS,
      'Why CloudNexus disabled the webhook. `gone`: the receiver returned 410. `failing`: every attempt failed for five days. `key_ended`: its key was revoked or has expired.',
    ),
  ),
  disabled_at: Nullable(Timestamp('When CloudNexus disabled it.')),
  failing_since: Nullable(Timestamp('Time of the first failure since the last success; null if there was none.')),
  previous_secret_until: Nullable(
    Timestamp(
      'Until when requests are also signed with the previous secret, in real time; null if the secret was never rotated.',
    ),
  ),
  key_id: Id(
    'key',
    'The key whose scopes apply: the key that created the webhook, or that last enabled it or changed its URL or events.',
  ),
  created_at: Timestamp('When the webhook was created.'),
  updated_at: Timestamp('When the webhook last changed.'),
  version: Type.Integer({ description: 'Increases with every change.', examples: [1] }),
}

export const Webhook = Type.Object(
  { id, ...fields },
  { $id: 'Webhook', description: 'An HTTP endpoint that receives events.', additionalProperties: false },
)
export const WebhookPage = PageOf(Webhook)

export const WebhookWithSecret = Type.Object(
  { id, secret, secret_available: secretAvailable, ...fields },
  { $id: 'WebhookWithSecret', description: 'A webhook and its new secret.', additionalProperties: false },
)

export const WebhookCreate = Type.Object(
  {
    url,
    events,
    description: Type.Optional({ ...description, default: '' }),
    enabled: Type.Optional({ ...enabled, default: true }),
  },
  { $id: 'WebhookCreate', description: 'A webhook to create.', additionalProperties: false },
)
export type WebhookCreateBody = Static<typeof WebhookCreate>

const ignored = Type.Optional(
  Type.Unknown({ description: 'Read-only and ignored, so that a response of GET can be sent back.' }),
)

export const WebhookUpdate = Type.Object(
  {
    url: Type.Optional(url),
    events: Type.Optional(events),
    description: Type.Optional(description),
    enabled: Type.Optional({
      ...enabled,
      description:
        'Whether events are sent. True also enables a webhook that CloudNexus disabled, and clears `disabled_reason` and `failing_since`.',
    }),
    ...{ id: ignored, disabled_reason: ignored, disabled_at: ignored, failing_since: ignored, key_id: ignored },
    ...{ previous_secret_until: ignored, created_at: ignored, updated_at: ignored, version: ignored },
  },
  {
    $id: 'WebhookUpdate',
    description: 'The fields to change. Omitted fields keep their values.',
    additionalProperties: false,
    examples: [{ events: ['instance.*'], enabled: true }],
  },
)
export type WebhookUpdateBody = Static<typeof WebhookUpdate>

export const WebhookDelivery = Type.Object(
  {
    id: Id('dlv', 'Unique identifier of the delivery.'),
    webhook_id: Id('whk', 'The webhook that receives the event.'),
    event_id: Id('evt', 'The event. Each request sends this ID as its `webhook-id` header.'),
    event_type: Type.String({ description: 'Event type.', examples: ['instance.ready'] }),
    event_sequence: Type.Integer({ description: 'Sequence number of the event.', examples: [1042] }),
    cause: OneOf(
      CAUSES,
      'Why the event is sent. `event`: it occurred. `resend`, `replay`, `ping`: the API action of that name queued it.',
    ),
    status: OneOf(
      DELIVERY_STATUSES,
      '`pending`: an attempt is due. `succeeded`: the receiver returned 2xx. `failed`: the last attempt failed. `cancelled`: no further attempt is made; see `reason`.',
    ),
    reason: Nullable(
      Type.String({
        description:
          'The `error` of the last attempt, or why the delivery was cancelled: `disabled` (the webhook is disabled), `scope` (the key may not read this event type), `expired` (the event is past its retention).',
        examples: ['http_status'],
      }),
    ),
    attempt_count: Type.Integer({ description: 'Number of attempts so far.', examples: [1] }),
    next_attempt_at: Nullable(Timestamp('When the next attempt is due; null if there is none.')),
    created_at: Timestamp('When the delivery was queued.'),
    finished_at: Nullable(Timestamp('When the delivery succeeded, failed or was cancelled; null while it is pending.')),
  },
  { $id: 'WebhookDelivery', description: 'The delivery of one event to one webhook.', additionalProperties: false },
)
export const WebhookDeliveryPage = PageOf(WebhookDelivery)

const milliseconds = (description: string) => Type.Number({ description, examples: [12.4] })
const headers = (description: string) => Type.Record(Type.String(), Type.String(), { description })

export const WebhookAttempt = Type.Object(
  {
    number: Type.Integer({ description: 'Number of the attempt, from 1.', examples: [1] }),
    started_at: PreciseTimestamp('When the attempt started, in real time.'),
    duration_ms: milliseconds('Total duration in milliseconds.'),
    dns_ms: Nullable(milliseconds('Milliseconds to resolve and check the host name; null if that failed.')),
    connect_ms: Nullable(
      milliseconds(
        'Milliseconds to connect, including TLS; null if an open connection was used or the connection failed.',
      ),
    ),
    first_byte_ms: Nullable(
      milliseconds('Milliseconds from the request to the response headers; null if there was no response.'),
    ),
    request_headers: headers('The request headers, without the signature.'),
    response_status: Nullable(Type.Integer({ description: 'HTTP status of the response.', examples: [200] })),
    response_headers: Type.Union([headers('Header values by name.'), Type.Null()], {
      description: 'The response headers.',
    }),
    response_body: Nullable(Type.String({ description: 'The first 4 KiB of the response body.' })),
    error: Nullable(
      OneOf(
        ATTEMPT_ERRORS,
        'Why the attempt failed; null if it succeeded. `redirect`: the receiver returned 3xx; redirects are not followed. `http_status`: the status was neither 2xx nor 3xx. `timeout`: the attempt took longer than 15 seconds in total.',
      ),
    ),
  },
  {
    $id: 'WebhookAttempt',
    description: 'One HTTP request to a webhook, and its response.',
    additionalProperties: false,
  },
)

export const WebhookDeliveryDetail = Type.Object(
  {
    ...WebhookDelivery.properties,
    attempts: Type.Array(ref(WebhookAttempt), { description: 'The attempts in order.' }),
  },
  { $id: 'WebhookDeliveryDetail', description: 'A delivery and all its attempts.', additionalProperties: false },
)

export const WebhookPing = Type.Object(
  {
    event_id: Id('evt', 'The `webhook.ping` event.'),
    delivery_id: Id('dlv', 'The delivery of the event; get it to see the result.'),
  },
  { $id: 'WebhookPing', description: 'A ping that was queued.', additionalProperties: false },
)

const sequence = (description: string) =>
  Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER, description, examples: [1_042] })

export const WebhookReplayCreate = Type.Object(
  {
    from_sequence: Type.Optional(sequence('Sequence number of the first event.')),
    to_sequence: Type.Optional(
      sequence('Sequence number of the last event, inclusive. If it is less than `from_sequence`, the range is empty.'),
    ),
    failed_since: Type.Optional(
      Moment(
        'Replays the events whose deliveries were created at or after this time and failed or were cancelled, unless a later delivery succeeded.',
      ),
    ),
  },
  {
    $id: 'WebhookReplayCreate',
    description: 'Either a range of sequence numbers or a time.',
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
    deliveries: Type.Integer({ description: 'Number of events that were queued.', examples: [42] }),
    next_sequence: Nullable(
      Type.Integer({
        description:
          'The `from_sequence` of the next request, if more events matched than one replay takes; otherwise null.',
      }),
    ),
    until: Nullable(Timestamp('When the last delivery is due; null if nothing was queued.')),
  },
  { $id: 'WebhookReplay', description: 'A replay that was queued.', additionalProperties: false },
)

/** The optional body of rotate_secret. */
export const RotateSecret = Type.Object(
  {
    overlap_seconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 7 * 86_400,
        default: 86_400,
        description: 'How many seconds requests are also signed with the previous secret.',
      }),
    ),
  },
  { title: 'RotateSecret', additionalProperties: false, description: 'Options of the rotation.' },
)

const words = (list: string) => `^(${list})(,(${list})){0,49}$`
export const deliveryFilters = {
  ...listParameters,
  status: Type.Optional(
    Type.String({
      pattern: words(DELIVERY_STATUSES.join('|')),
      'x-rule': `one or more of ${DELIVERY_STATUSES.join(', ')}, separated by commas`,
      description: 'Only deliveries with these statuses, separated by commas.',
      examples: ['failed'],
    }),
  ),
  type: Type.Optional(
    Type.String({
      pattern: words('[a-z_]{1,32}\\.[a-z_]{1,32}'),
      'x-rule': 'event types such as instance.ready, separated by commas',
      description: 'Only deliveries of these event types, separated by commas.',
      examples: ['instance.ready'],
    }),
  ),
  event: Type.Optional(Id('evt', 'Only deliveries of the event with this ID.')),
}
