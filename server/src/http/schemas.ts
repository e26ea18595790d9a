/** Shapes that every resource uses, and the words for wrong values: `x-rule` completes the sentence "<field> must be …". */
import { type Static, type TSchema, Type } from 'typebox'
import { ID_LENGTHS, type IdType } from '../lib/id.ts'

/** Mentions a named schema, so that it is one named type in the OpenAPI document. */
export function ref<T extends TSchema & { $id?: string }>(schema: T) {
  return Type.Unsafe<Static<T>>({ $ref: `${schema.$id}#` })
}

/** Text of a user: no control characters, no lone surrogates (which no database can store). */
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

/** One of these words. */
export function OneOf<const T extends string>(words: readonly T[], description: string) {
  return Type.Unsafe<T>({ type: 'string', enum: [...words], description })
}

export function Timestamp(description: string) {
  return Type.String({ format: 'date-time', description, examples: ['2025-01-15T08:32:14Z'] })
}

/** A time with milliseconds, which resource timestamps do not have: of what is told in real time. */
export function PreciseTimestamp(description: string) {
  return Type.String({
    pattern: '^[0-9-]{10}T[0-9:]{8}\\.[0-9]{3}Z$',
    description,
    examples: ['2025-01-15T08:32:14.125Z'],
  })
}

/** A time that a client gives: RFC 3339 with any offset, and one that the calendar has. */
export function Moment(description: string) {
  return Type.String({
    pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$',
    format: 'date-time',
    'x-rule': 'a time such as 2025-01-15T08:32:14Z',
    description,
    examples: ['2099-01-15T08:32:14Z'],
  })
}

/** An identifier of this type, as a field or a path parameter. A path with any other text is 404. */
export function Id(type: IdType, description: string) {
  return Type.String({
    pattern: `^${type}_[0-9a-z]{${ID_LENGTHS[type]}}$`,
    description,
    examples: [`${type}_${'3x9y2z1a0b5c7d8e4f6g'.slice(0, ID_LENGTHS[type])}`],
    'x-rule': `an identifier such as ${type}_${'3x9y2z1a0b5c7d8e4f6g'.slice(0, ID_LENGTHS[type])}`,
  })
}

/** The 204 of a route; its handler ends with `return reply.code(204).send()`. */
export function NoContent(description: string) {
  return Type.Unsafe<unknown>({ type: 'null', description })
}

const Size = Type.Object(
  {
    vcpus: Type.Integer({ description: 'Virtual CPUs.' }),
    memory_bytes: Type.Integer({ description: 'Memory, each instance with 128 MiB for its machine.' }),
    disk_bytes: Type.Integer({ description: 'Disks at their full size.' }),
  },
  { description: 'An amount of what instances take.', additionalProperties: false },
)

/** What a region can hold, and what its instances have reserved. */
export const RegionCapacity = Type.Object(
  { total: Size, used: Size },
  { description: 'What the region can hold, and what its instances have reserved.', additionalProperties: false },
)

/** What serves an environment in a region. */
export const Hypervisor = Type.Object(
  {
    name: Type.String({ description: 'What runs the machines.', examples: ['qemu'] }),
    accelerator: OneOf(['kvm', 'tcg', 'none'], 'What executes their instructions: the CPU, or a translator.'),
    reason: Type.String({ description: 'How that was found out.', examples: ['The tiny guest booted with it.'] }),
  },
  { description: 'What serves the environment of the key there.', additionalProperties: false },
)
