import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, PreciseTimestamp, Text } from '../http/schemas.ts'

const fields = (description: string) =>
  Type.Union([Type.Object({}, { additionalProperties: true }), Type.Null()], { description })

export const AuditEntry = Type.Object(
  {
    sequence: Type.Integer({ description: 'Position in the log of the environment, from 1, without gaps.' }),
    id: Id('aud', 'ID of the entry.'),
    created_at: PreciseTimestamp('When the request was processed, in real time.'),
    key_id: Id('key', 'API key of the request.'),
    address: Nullable(Type.String({ description: 'IP address of the client.' })),
    request_id: Type.String({ description: 'X-Request-ID of the request.', examples: ['deploy-42'] }),
    req_id: Id('req', 'Unique ID of the request.'),
    action: Type.String({ description: 'Operation ID of the request.', examples: ['createInstance'] }),
    resource: Nullable(Type.String({ description: 'ID of the resource.' })),
    outcome: OneOf(['done', 'refused'], 'Whether the request was done or refused.'),
    status: Type.Integer({ description: 'HTTP status of the response.', examples: [201] }),
    code: Nullable(Type.String({ description: 'Error code of a refused request; null otherwise.' })),
    before: fields('Changed fields before the write; null for a creation and for a search.'),
    after: fields('Changed fields after the write; null for a deletion. For a search, what was searched for.'),
    hash: Type.String({
      pattern: '^[0-9a-f]{64}$',
      examples: ['9c1185a5c5e9fc54612808977ee8f548b2258d31f2d2a5f1b1e6a1d2c3b4a596'],
      description:
        "SHA-256 of the concatenation of the previous entry's hash (32 bytes; zeros for the first entry) and the SHA-256 (32 bytes) of this entry in canonical JSON (RFC 8785) without `sequence` and `hash`.",
    }),
  },
  {
    $id: 'AuditEntry',
    description:
      'A write that was done or refused, or a search of the operator in all projects (`project=any`). Entries are never changed, and each hash covers all previous entries.',
    additionalProperties: false,
  },
)

export const AuditEntryPage = PageOf(AuditEntry)

/** Filters of the routes. */
export const auditFilters = {
  action: Type.Optional(
    Text({ maxLength: 500, description: 'Filter by operation ID, separated by commas.', examples: ['createInstance'] }),
  ),
  resource: Type.Optional(Text({ maxLength: 100, description: 'Filter by resource ID.' })),
  key: Type.Optional(Text({ maxLength: 100, description: 'Filter by API key ID.' })),
  request_id: Type.Optional(Text({ maxLength: 128, description: 'Filter by X-Request-ID or request ID (`req_…`).' })),
  outcome: Type.Optional(OneOf(['done', 'refused'], 'Filter by outcome.')),
  from: Type.Optional(Moment('Only entries from this time on.')),
  to: Type.Optional(Moment('Only entries before this time.')),
}
export const auditListParameters = { ...listParameters, ...auditFilters }
