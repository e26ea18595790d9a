import { type Static, Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, Text, Timestamp } from '../http/schemas.ts'
import { KEY_STATUSES } from './row.ts'
import { SCOPES } from './scopes.ts'

const name = Text({ description: 'Display name. Need not be unique.', minLength: 1, maxLength: 63, examples: ['ci'] })
const scopes = Type.Array(OneOf(SCOPES, 'A permission.'), {
  minItems: 1,
  maxItems: SCOPES.length,
  uniqueItems: true,
  description: 'Permissions of the key. Every key can read regions, plans and limits.',
  examples: [['instances:read', 'instances:write']],
})
const allowedAddresses = Nullable(
  Type.Array(
    Type.String({
      maxLength: 50,
      description: 'IP address or CIDR range, IPv4 or IPv6.',
      examples: ['203.0.113.0/24'],
    }),
    {
      minItems: 1,
      maxItems: 50,
      description: 'IP addresses that the key can be used from; null if not restricted.',
      examples: [['203.0.113.7', '2001:db8::/32']],
    },
  ),
)
const maxInstances = Type.Integer({
  minimum: 0,
  maximum: 1_000_000,
  description: 'Maximum number of instances at a time.',
})
const maxVcpus = Type.Integer({
  minimum: 0,
  maximum: 10_000_000,
  description: 'Maximum number of vCPUs at a time, over all instances.',
})
const ttl = Type.Integer({
  minimum: 60,
  maximum: 366 * 86_400,
  description:
    'Seconds after which each instance is terminated, even with termination protection; see its `expires_at`.',
})

const Budget = Type.Object(
  {
    max_instances: Nullable(maxInstances),
    max_vcpus: Nullable(maxVcpus),
    ttl_seconds: Nullable(ttl),
    used_instances: Type.Integer({ description: 'Instances in use.' }),
    used_vcpus: Type.Integer({ description: 'vCPUs in use.' }),
  },
  {
    additionalProperties: false,
    description: 'Limits that this key shares with its rotations and with the keys that were created with it.',
  },
)

const id = Id('key', 'ID of the key.')
const fields = {
  name,
  prefix: Type.String({
    description: 'Beginning and end of the key, to identify it.',
    examples: ['cn_live_sk_ab12...wxyz'],
  }),
  scopes,
  status: OneOf(KEY_STATUSES, 'Only active keys are valid.'),
  environment: OneOf(['live', 'test'], 'Environment of the key.'),
  created_at: Timestamp('When the key was created.'),
  age_days: Type.Integer({ description: 'Whole days since `created_at`, in real time.', examples: [42] }),
  rotation_recommended: Type.Boolean({
    description:
      'Whether the key is active and was created more than 90 days ago. The operator can set another number of days, or none.',
  }),
  expires_at: Nullable(Timestamp('When the key expires; null: never. A rotation shortens the expiry of the old key.')),
  last_used_at: Nullable(Timestamp('When the key was last used, to the minute.')),
  last_used_address: Nullable(Type.String({ description: 'IP address of the last use.' })),
  allowed_addresses: allowedAddresses,
  budget: Type.Union([Budget, Type.Null()], {
    description: 'Limits on what can be created with the key; null if there is no budget.',
  }),
  created_by: Nullable(Id('key', 'Key that created this key; null for the first keys of a project.')),
  replaces: Nullable(Id('key', 'Key that this key replaces.')),
  replaced_by: Nullable(Id('key', 'Active key that replaces this key.')),
  revoked_at: Nullable(Timestamp('When the key was revoked.')),
}

export const ApiKey = Type.Object(
  { id, ...fields },
  {
    $id: 'ApiKey',
    description: 'An API key. The key itself is returned only once, when it is created; only a keyed hash is stored.',
    additionalProperties: false,
  },
)

export const ApiKeyCreated = Type.Object(
  {
    id,
    key: Type.Optional(Type.String({ description: 'The key. Store it now: it is returned only once.' })),
    secret_available: Type.Optional(
      Type.Boolean({
        description: 'False when this is the stored response of an earlier request; the key is not stored with it.',
      }),
    ),
    ...fields,
  },
  { $id: 'ApiKeyCreated', description: 'A new API key, including the key itself.', additionalProperties: false },
)

export const ApiKeyPage = PageOf(ApiKey)

const given = <T extends ReturnType<typeof Type.Integer>>(schema: T) => Type.Optional(Nullable(schema))

export const ApiKeyCreate = Type.Object(
  {
    name,
    scopes,
    expires_at: Type.Optional(Nullable(Moment('When the key expires. Default: when your key expires.'))),
    allowed_addresses: Type.Optional({
      ...allowedAddresses,
      description: 'IP addresses that the key can be used from. Default: those of your key.',
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
          'Limits on what can be created with the key. If your key has a budget, the new budget is within it and inherits the limits that you omit. Default: both keys share the budget of your key.',
      }),
    ),
  },
  {
    $id: 'ApiKeyCreate',
    description: 'A key to create. Its privileges cannot exceed those of your key.',
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

const ignored = Type.Optional(
  Type.Unknown({ description: 'Read-only; ignored, so that the output of GET can be sent back.' }),
)

export const ApiKeyUpdate = Type.Object(
  {
    name: Type.Optional(name),
    scopes: Type.Optional(scopes),
    expires_at: Type.Optional(Nullable(Moment('When the key expires; null: never.'))),
    allowed_addresses: Type.Optional(allowedAddresses),
    budget: Type.Optional(
      Type.Unknown({ description: 'The budget cannot be changed. The current value is accepted.' }),
    ),
    id: ignored,
    prefix: ignored,
    status: ignored,
    environment: ignored,
    created_at: ignored,
    age_days: ignored,
    rotation_recommended: ignored,
    last_used_at: ignored,
    last_used_address: ignored,
    created_by: ignored,
    replaces: ignored,
    replaced_by: ignored,
    revoked_at: ignored,
  },
  {
    $id: 'ApiKeyUpdate',
    description:
      'Changes to a key. Omitted fields keep their values. Either all changes are made or none. Its privileges cannot exceed those of your key.',
    additionalProperties: false,
    examples: [{ name: 'ci, nightly', scopes: ['instances:read'] }],
  },
)
export type ApiKeyUpdateBody = Static<typeof ApiKeyUpdate>

/** The optional body of a rotation. */
export const Rotate = Type.Object(
  {
    overlap_seconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 7 * 86_400,
        default: 86_400,
        description: 'How many seconds the old key remains active.',
      }),
    ),
  },
  { title: 'Rotate', additionalProperties: false, description: 'Options of a rotation.' },
)

export const keyFilters = {
  ...listParameters,
  status: Type.Optional(
    Type.String({
      pattern: `^(${KEY_STATUSES.join('|')})(,(${KEY_STATUSES.join('|')}))*$`,
      'x-rule': `one or more of ${KEY_STATUSES.join(', ')}, separated by commas`,
      description: 'Filter by status. Default: active.',
    }),
  ),
}
