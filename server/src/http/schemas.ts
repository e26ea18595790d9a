/**
 * Schemas that all resources share. `x-rule` completes the error message "<field> must be …"; `x-scope` of a parameter is the
 * scope that a key needs for it besides that of the operation. Pure.
 */
import { type Static, type TSchema, Type } from 'typebox'
import { ID_LENGTHS, type IdType } from '../lib/id.ts'

/** References a named schema, which is one named type in the OpenAPI document. */
export function ref<T extends TSchema & { $id?: string }>(schema: T) {
  return Type.Unsafe<Static<T>>({ $ref: `${schema.$id}#` })
}

/** User-supplied text: no control characters, no lone surrogates (which PostgreSQL cannot store). */
export function Text(options: { description: string; minLength?: number; maxLength: number; examples?: string[] }) {
  return Type.String({
    ...options,
    pattern: '^[^\\p{Cc}\\p{Cs}]*$',
    'x-rule': 'text without control characters',
  })
}

export function Nullable<T extends TSchema>(schema: T) {
  const { type, enum: words } = schema as { type?: string; enum?: string[] }
  return Type.Unsafe<Static<T> | null>({ ...schema, type: [type, 'null'], ...(words && { enum: [...words, null] }) })
}

/** One of these strings. */
export function OneOf<const T extends string>(words: readonly T[], description: string) {
  return Type.Unsafe<T>({ type: 'string', enum: [...words], description })
}

export function Timestamp(description: string) {
  return Type.String({ format: 'date-time', description, examples: ['2025-01-15T08:32:14Z'] })
}

/** A time with milliseconds, for records in real time; timestamps of resources have whole seconds. */
export function PreciseTimestamp(description: string) {
  return Type.String({
    pattern: '^[0-9-]{10}T[0-9:]{8}\\.[0-9]{3}Z$',
    description,
    examples: ['2025-01-15T08:32:14.125Z'],
  })
}

/** A time in a request: RFC 3339 with any offset, and a date that exists. */
export function Moment(description: string) {
  return Type.String({
    pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$',
    format: 'date-time',
    'x-rule': 'a time such as 2025-01-15T08:32:14Z',
    description,
    examples: ['2099-01-15T08:32:14Z'],
  })
}

/** An ID of this type, as a field or a path parameter. Any other text in a path is 404. */
export function Id(type: IdType, description: string) {
  return Type.String({
    pattern: `^${type}_[0-9a-z]{${ID_LENGTHS[type]}}$`,
    description,
    examples: [`${type}_${'3x9y2z1a0b5c7d8e4f6g'.slice(0, ID_LENGTHS[type])}`],
    'x-rule': `an ID such as ${type}_${'3x9y2z1a0b5c7d8e4f6g'.slice(0, ID_LENGTHS[type])}`,
  })
}

/** The 204 of a route; its handler ends with `return reply.code(204).send()`. */
export function NoContent(description: string) {
  return Type.Unsafe<unknown>({ type: 'null', description })
}

/** Query parameter of writes that support a dry run. */
export const dryRun = {
  dry_run: Type.Optional(
    Type.Boolean({ default: false, description: 'Change nothing and return 200 with a preview of the request.' }),
  ),
}

const Size = Type.Object(
  {
    vcpus: Type.Integer({ description: 'Virtual CPUs.' }),
    memory_bytes: Type.Integer({ description: 'Memory in bytes, including 128 MiB of overhead per instance.' }),
    disk_bytes: Type.Integer({ description: 'Disk space in bytes, counted at full disk size.' }),
  },
  { description: 'Amount of resources.', additionalProperties: false },
)

/** Total and reserved capacity of a region. */
export const RegionCapacity = Type.Object(
  { total: Size, used: Size },
  {
    description: 'Total capacity of the region, and the part that instances have reserved.',
    additionalProperties: false,
  },
)

/** The hypervisor of an environment in a region. */
export const Hypervisor = Type.Object(
  {
    name: Type.String({ description: 'Hypervisor that runs the machines.', examples: ['qemu'] }),
    accelerator: OneOf(
      ['kvm', 'tcg', 'none'],
      'CPU virtualization in use: `kvm` (hardware), `tcg` (emulation) or `none`.',
    ),
    reason: Type.String({ description: 'Why this accelerator is used.', examples: ['The test guest booted with it.'] }),
  },
  { description: 'Hypervisor for the environment of the API key.', additionalProperties: false },
)
