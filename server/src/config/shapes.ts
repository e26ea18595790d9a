/** Schemas of the settings that are objects. */
import { type Static, Type } from 'typebox'
import { QUOTA_NAMES, type QuotaName } from '../lib/quota.ts'

const Id = Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,62}$' })
const Bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const strict = { additionalProperties: false }

export const Region = Type.Object({ id: Id, name: Type.String({ minLength: 1, maxLength: 63 }) }, strict)

export const Plan = Type.Object(
  {
    id: Id,
    vcpus: Type.Integer({ minimum: 1, maximum: 255 }),
    memory_bytes: Type.Integer({ minimum: 96 * 2 ** 20, maximum: 2 ** 43, multipleOf: 2 ** 20 }),
    disk_bytes: Type.Integer({ minimum: 2 ** 27, maximum: 2 ** 46, multipleOf: 2 ** 20 }),
  },
  strict,
)
/** A size of instances. Existing instances keep their size when the operator changes a plan. */
export type Plan = Static<typeof Plan>

const Mirror = Type.Object(
  {
    url: Type.String({ pattern: '^https?://' }),
    keyring: Type.String({ pattern: '^(/|https?://)' }),
    fingerprints: Type.Array(Type.String({ pattern: '^[0-9A-F]{40}$' }), { minItems: 1 }),
  },
  strict,
)
/**
 * Source of a publisher's signed image lists. `keyring` is a file or URL with public keys for gpgv; `fingerprints` are
 * the keys that may sign.
 */
export type Mirror = Static<typeof Mirror>
export const Mirrors = Type.Unsafe<Record<string, Mirror>>(Type.Object({ ubuntu: Mirror }, strict))

/** Null or absent: no limit. */
const Limit = Type.Union([Bytes, Type.Null()])
export const Quota = Type.Partial(
  Type.Object(Object.fromEntries(QUOTA_NAMES.map((name) => [name, Limit])) as Record<QuotaName, typeof Limit>),
  strict,
)

export const RateLimit = Type.Object(
  {
    rate_per_second: Type.Number({ minimum: 0.001, maximum: 1_000_000 }),
    burst: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
  },
  strict,
)
