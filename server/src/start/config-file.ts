import { readFileSync } from 'node:fs'
import { type Static, Type } from 'typebox'
import { Value } from 'typebox/value'
import { StartupError } from '../lib/errors.ts'
import { QUOTA_NAMES, type QuotaName } from '../lib/quota.ts'
import { closest } from './closest.ts'
import { SETTINGS } from './settings.ts'

const Id = Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,62}$' })
const Bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const strict = { additionalProperties: false }

const Plan = Type.Object(
  {
    id: Id,
    vcpus: Type.Integer({ minimum: 1, maximum: 255 }),
    memory_bytes: Type.Integer({ minimum: 96 * 2 ** 20, maximum: 2 ** 43, multipleOf: 2 ** 20 }),
    disk_bytes: Type.Integer({ minimum: 2 ** 27, maximum: 2 ** 46, multipleOf: 2 ** 20 }),
  },
  strict,
)

const Mirror = Type.Object(
  {
    url: Type.String({ pattern: '^https?://' }),
    keyring: Type.String({ pattern: '^(/|https?://)' }),
    fingerprints: Type.Array(Type.String({ pattern: '^[0-9A-F]{40}$' }), { minItems: 1 }),
  },
  strict,
)

const Quota = Type.Partial(
  Type.Object(
    Object.fromEntries(QUOTA_NAMES.map((name) => [name, Type.Union([Bytes, Type.Null()])])) as Record<
      QuotaName,
      ReturnType<typeof Type.Union<[typeof Bytes, ReturnType<typeof Type.Null>]>>
    >,
  ),
  strict,
)

const RateLimit = Type.Object(
  {
    rate_per_second: Type.Number({ minimum: 0.001, maximum: 1_000_000 }),
    burst: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
  },
  strict,
)

/** What <data-dir>/config.json may hold. Values that have a flag or a variable are checked like those, too. */
const ConfigFile = Type.Partial(
  Type.Object({
    host: Type.String(),
    port: Type.Integer(),
    public_url: Type.String(),
    log_level: Type.String(),
    database_url: Type.String(),
    database_app_url: Type.String(),
    database_engine_url: Type.String(),
    region: Type.Object({ id: Id, name: Type.String({ minLength: 1, maxLength: 63 }) }, strict),
    plans: Type.Array(Plan, { minItems: 1 }),
    accelerator: Type.String(),
    capacity: Type.Partial(
      Type.Object({ vcpus_per_core: Type.Integer(), memory_bytes: Bytes, disk_bytes: Bytes }),
      strict,
    ),
    quotas: Type.Partial(Type.Object({ live: Quota, test: Quota }), strict),
    public_addresses: Type.String(),
    image_allow: Type.Array(Type.String()),
    webhook_allow: Type.Array(Type.String()),
    webhook_proxy: Type.String(),
    webhook_log_days: Type.Integer(),
    trusted_proxies: Type.Array(Type.String()),
    image_max_bytes: Bytes,
    image_stall_timeout_seconds: Type.Integer(),
    request_log_days: Type.Integer(),
    events_days: Type.Integer(),
    recovery: Type.Partial(Type.Object({ concurrency: Type.Integer() }), strict),
    metrics_listen: Type.String(),
    mirrors: Type.Object({ ubuntu: Mirror }, strict),
    rate_limits: Type.Partial(
      Type.Object({
        enabled: Type.Boolean(),
        keys_per_project: Type.Integer(),
        reads: RateLimit,
        writes: RateLimit,
        creates: RateLimit,
        test_writes: RateLimit,
        test_creates: RateLimit,
        unauthenticated: RateLimit,
        failed_authentication: RateLimit,
      }),
      strict,
    ),
  }),
  strict,
)
export type ConfigFile = Static<typeof ConfigFile>

/** Reads the file; absent is empty. Throws a StartupError that names everything that is wrong with it. */
export function readConfigFile(file: string): ConfigFile {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return {}
    throw new StartupError(`${file} cannot be read (${code}).`)
  }
  return parseConfigFile(file, text)
}

/** The text of config.json → its fields; throws a StartupError with one line for each mistake. */
export function parseConfigFile(file: string, text: string): ConfigFile {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new StartupError(`${file} is not valid JSON: ${(error as Error).message}`)
  }
  const mistakes = [...Value.Errors(ConfigFile, value)].flatMap((error) => describe(error))
  const fields = value as ConfigFile
  if (mistakes.length === 0) {
    for (const setting of SETTINGS) mistakes.push(...reparse(setting.key, setting.parse, lookUp(fields, setting.key)))
    const ids = (fields.plans ?? []).map((plan) => plan.id)
    if (new Set(ids).size < ids.length) mistakes.push('plans: each id may be there once')
  }
  if (mistakes.length > 0) throw new StartupError(mistakes.map((mistake) => `${file}: ${mistake}`).join('\n'))
  return fields
}

/** The value at 'capacity.memory_bytes' and the like. */
export function lookUp(object: object, key: string): unknown {
  return key.split('.').reduce<unknown>((value, part) => (value as Record<string, unknown> | undefined)?.[part], object)
}

function reparse(key: string, parse: ((text: string) => unknown) | undefined, value: unknown): string[] {
  if (value === undefined || !parse) return []
  try {
    parse(Array.isArray(value) ? value.join(',') : String(value))
    return []
  } catch (error) {
    return [`${key} must be ${(error as Error).message}`]
  }
}

type SchemaError = { keyword: string; instancePath: string; message: string; params: object }

function describe({ keyword, instancePath, message, params }: SchemaError): string[] {
  if (keyword === 'boolean') return []
  const path = instancePath.slice(1).replaceAll('/', '.')
  if (keyword !== 'additionalProperties') return [`${path || 'the file'} ${message}`]
  const known = SETTINGS.map((setting) => setting.key)
  return (params as { additionalProperties: string[] }).additionalProperties.map((name) => {
    const full = path ? `${path}.${name}` : name
    return `there is no field ${full}${closest(full, known)}`
  })
}
