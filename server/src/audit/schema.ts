import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Moment, Nullable, OneOf, PreciseTimestamp, Text } from '../http/schemas.ts'

const fields = (description: string) =>
  Type.Union([Type.Object({}, { additionalProperties: true }), Type.Null()], { description })

export const AuditEntry = Type.Object(
  {
    sequence: Type.Integer({ description: 'Place in the log of the environment, from 1, without gaps.' }),
    id: Id('aud', 'Identifier.'),
    created_at: PreciseTimestamp('When, in real time.'),
    key_id: Id('key', 'The key that was used.'),
    address: Nullable(Type.String({ description: 'Address that the request came from.' })),
    request_id: Type.String({ description: 'X-Request-ID of the request.', examples: ['deploy-42'] }),
    req_id: Id('req', "The request's own identifier."),
    action: Type.String({ description: 'The operation, by its name in this document.', examples: ['createInstance'] }),
    resource: Nullable(Type.String({ description: 'Identifier of what it was about.' })),
    outcome: OneOf(['done', 'refused'], 'Whether it was carried out.'),
    status: Type.Integer({ description: 'HTTP status of the answer.', examples: [201] }),
    code: Nullable(Type.String({ description: 'Code of the problem, where it was refused.' })),
    before: fields('What has changed, as it was; null before a creation.'),
    after: fields('What has changed, as it is; null after an end.'),
    hash: Type.String({
      pattern: '^[0-9a-f]{64}$',
      examples: ['9c1185a5c5e9fc54612808977ee8f548b2258d31f2d2a5f1b1e6a1d2c3b4a596'],
      description:
        'SHA-256 over the 32 bytes of the hash of the entry before (zeros before the first) and the 32 bytes of the SHA-256 of this entry in canonical JSON (RFC 8785) without `sequence` and `hash`.',
    }),
  },
  {
    $id: 'AuditEntry',
    description:
      'A write that was carried out or refused. Entries are never changed, and each hash seals all before it.',
    additionalProperties: false,
  },
)

export const AuditEntryPage = PageOf(AuditEntry)

/** Which entries; spread into the parameters of a route. */
export const auditFilters = {
  action: Type.Optional(Text({ maxLength: 500, description: 'Operations, by comma.', examples: ['createInstance'] })),
  resource: Type.Optional(Text({ maxLength: 100, description: 'Identifier of a resource.' })),
  key: Type.Optional(Text({ maxLength: 100, description: 'Identifier of a key.' })),
  request_id: Type.Optional(Text({ maxLength: 128, description: 'X-Request-ID, or a `req_…` identifier.' })),
  outcome: Type.Optional(OneOf(['done', 'refused'], 'Only these.')),
  from: Type.Optional(Moment('From this time on.')),
  to: Type.Optional(Moment('Before this time.')),
}
export const auditListParameters = { ...listParameters, ...auditFilters }
