import { type Static, Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, Text, Timestamp } from '../http/schemas.ts'
import { KEY_STATUSES } from './row.ts'
import { SCOPES } from './scopes.ts'

const name = Text({ description: 'Name for people.', minLength: 1, maxLength: 63, examples: ['ci'] })
const scopes = Type.Array(OneOf(SCOPES, 'One thing that the key may do.'), {
  minItems: 1,
  maxItems: SCOPES.length,
  uniqueItems: true,
  description: 'What the key may do. Regions, plans and limits can be read with every key.',
  examples: [['instances:read', 'instances:write']],
})
const allowedAddresses = Nullable(
  Type.Array(
    Type.String({
      maxLength: 50,
      description: 'An address or a range (CIDR), IPv4 or IPv6.',
      examples: ['203.0.113.0/24'],
    }),
    {
      minItems: 1,
      maxItems: 50,
      description: 'From where the key may be used; null: from everywhere.',
      examples: [['203.0.113.7', '2001:db8::/32']],
    },
  ),
)
const maxInstances = Type.Integer({ minimum: 0, maximum: 1_000_000, description: 'Instances at the same time.' })
const maxVcpus = Type.Integer({ minimum: 0, maximum: 10_000_000, description: 'vCPUs at the same time, in sum.' })
const ttl = Type.Integer({
  minimum: 60,
  maximum: 366 * 86_400,
  description: 'Seconds after which each instance is terminated, protected or not; see its `expires_at`.',
})

const Budget = Type.Object(
  {
    max_instances: Nullable(maxInstances),
    max_vcpus: Nullable(maxVcpus),
    ttl_seconds: Nullable(ttl),
    used_instances: Type.Integer({ description: 'Instances that count now.' }),
    used_vcpus: Type.Integer({ description: 'vCPUs that count now.' }),
  },
  {
    additionalProperties: false,
    description: 'What may be made through this key, its rotations and the keys that were made with it, together.',
  },
)

const id = Id('key', 'Identifier.')
const fields = {
  name,
  prefix: Type.String({
    description: 'Beginning and end of the key, to recognise it.',
    examples: ['cn_live_sk_ab12...wxyz'],
  }),
  scopes,
  status: OneOf(KEY_STATUSES, 'Only an active key works.'),
  environment: OneOf(['live', 'test'], 'The environment it belongs to.'),
  created_at: Timestamp('When it was made.'),
  expires_at: Nullable(Timestamp('When it ends by itself; null: never. A rotation lets the old key end sooner.')),
  last_used_at: Nullable(Timestamp('When it was used last, to the minute.')),
  last_used_address: Nullable(Type.String({ description: 'From where it was used then.' })),
  allowed_addresses: allowedAddresses,
  budget: Type.Union([Budget, Type.Null()], { description: 'Null: no budget.' }),
  created_by: Nullable(Id('key', 'The key that it was made with; null for the first ones.')),
  replaces: Nullable(Id('key', 'The key that it takes the place of.')),
  replaced_by: Nullable(Id('key', 'The active key that takes its place.')),
  revoked_at: Nullable(Timestamp('When it was revoked.')),
}

export const ApiKey = Type.Object(
  { id, ...fields },
  {
    $id: 'ApiKey',
    description: 'An API key. The key itself is shown once, when it is made; only a keyed hash of it is stored.',
    additionalProperties: false,
  },
)

export const ApiKeyCreated = Type.Object(
  {
    id,
    key: Type.Optional(
      Type.String({ description: 'The key itself. Store it now: it is shown this once and cannot be found again.' }),
    ),
    secret_available: Type.Optional(
      Type.Boolean({ description: 'False where the answer is a repeated one, which does not hold the key any more.' }),
    ),
    ...fields,
  },
  { $id: 'ApiKeyCreated', description: 'A new API key, with the key itself.', additionalProperties: false },
)

export const ApiKeyPage = PageOf(ApiKey)

const given = <T extends ReturnType<typeof Type.Integer>>(schema: T) => Type.Optional(Nullable(schema))

export const ApiKeyCreate = Type.Object(
  {
    name,
    scopes,
    expires_at: Type.Optional(Nullable(Moment('When it ends by itself. Left out: with your key, if that ends.'))),
    allowed_addresses: Type.Optional({
      ...allowedAddresses,
      description: 'From where it may be used. Left out: as your key.',
    }),
    budget: Type.Optional(
      Type.Unsafe<{ max_instances?: number | null; max_vcpus?: number | null; ttl_seconds?: number | null } | null>({
        type: ['object', 'null'],
        properties: {
          max_instances: given(maxInstances),
          max_vcpus: given(maxVcpus),
          ttl_seconds: given(ttl),
        },
        minProperties: 1,
        additionalProperties: false,
        description:
          'What may be made through it. Where your key has a budget, this one lies within it, and limits that are left out are as there; left out altogether, both keys share the one budget.',
      }),
    ),
  },
  {
    $id: 'ApiKeyCreate',
    description: 'A key to be made. It cannot be stronger than yours.',
    additionalProperties: false,
    examples: [
      {
        name: 'ci',
        scopes: ['instances:read', 'instances:write'],
        allowed_addresses: ['203.0.113.0/24'],
        budget: { max_instances: 3, max_vcpus: 12, ttl_seconds: 3600 },
      },
    ],
  },
)
export type ApiKeyCreateBody = Static<typeof ApiKeyCreate>

const ignored = Type.Optional(Type.Unknown({ description: 'Ignored: what GET printed may be sent back.' }))

export const ApiKeyUpdate = Type.Object(
  {
    name: Type.Optional(name),
    scopes: Type.Optional(scopes),
    expires_at: Type.Optional(Nullable(Moment('When it ends by itself; null: never.'))),
    allowed_addresses: Type.Optional(allowedAddresses),
    budget: Type.Optional(Type.Unknown({ description: 'Cannot be changed; may be sent back as it is.' })),
    id: ignored,
    prefix: ignored,
    status: ignored,
    environment: ignored,
    created_at: ignored,
    last_used_at: ignored,
    last_used_address: ignored,
    created_by: ignored,
    replaces: ignored,
    replaced_by: ignored,
    revoked_at: ignored,
  },
  {
    $id: 'ApiKeyUpdate',
    description: 'What is left out stays; all or nothing. The key cannot become stronger than yours.',
    additionalProperties: false,
    examples: [{ name: 'ci, nightly', scopes: ['instances:read'] }],
  },
)
export type ApiKeyUpdateBody = Static<typeof ApiKeyUpdate>

/** Of rotate; may be left out. */
export const Rotate = Type.Object(
  {
    overlap_seconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 7 * 86_400,
        default: 86_400,
        description: 'For how long the old key goes on working beside the new one.',
      }),
    ),
  },
  { title: 'Rotate', additionalProperties: false, description: 'How to go over to the new key.' },
)

export const keyFilters = {
  ...listParameters,
  status: Type.Optional(
    Type.String({
      pattern: `^(${KEY_STATUSES.join('|')})(,(${KEY_STATUSES.join('|')}))*$`,
      'x-rule': `one or more of ${KEY_STATUSES.join(', ')}, by comma`,
      description: 'Keys that no longer work are listed only when asked for.',
    }),
  ),
}
