/**
 * The mutable fields of an instance: a client sets them at creation and changes them later. Each is one entry here and
 * a column of the same name. The schemas of request and response, the row type, defaults, updates and `instance.updated`
 * derive from this table. Pure.
 */
import { type Static, type TSchema, Type } from 'typebox'
import { Text } from '../http/schemas.ts'

const FIELDS = {
  name: {
    schema: Type.String({
      pattern: '^[A-Za-z0-9._ -]{1,63}$',
      'x-rule': '1 to 63 characters: letters, digits, ".", "_", "-" and space',
      description: 'Display name. Need not be unique.',
      examples: ['api-1'],
    }),
    initial: (id: string) => id.replace('_', '-'),
  },
  tags: {
    schema: Type.Unsafe<Record<string, string>>({
      type: 'object',
      maxProperties: 50,
      propertyNames: {
        type: 'string',
        pattern: '^[A-Za-z0-9._/-]{1,63}$',
        'x-rule': 'keys of 1 to 63 letters, digits, ".", "_", "/" or "-"',
      },
      additionalProperties: Text({ maxLength: 256, description: 'Value of the tag.' }),
      description: 'Key-value labels, at most 50.',
      examples: [{ env: 'production', app: 'api-server' }],
    }),
    initial: () => ({}),
    updateDescription: 'Replaces all tags.',
  },
  auto_recovery: {
    schema: Type.Boolean({ description: 'Whether the instance is restarted automatically after a failure.' }),
    initial: () => true,
  },
  recovery_priority: {
    schema: Type.Integer({
      minimum: 0,
      maximum: 100,
      description: 'After a host reboot, instances with a higher number start first. Default: 50.',
    }),
    initial: () => 50,
  },
  termination_protection: {
    schema: Type.Boolean({ description: 'While true, DELETE returns `termination_protected`.' }),
    initial: () => false,
  },
} satisfies Record<string, Field>

type Field = {
  schema: TSchema
  /** Value of a new instance whose request omits the field. */
  initial: (id: string) => unknown
  /** Description in the update request, if it differs. */
  updateDescription?: string
}
type Schemas = { [Name in keyof typeof FIELDS]: (typeof FIELDS)[Name]['schema'] }
type Optional = { [Name in keyof Schemas]: ReturnType<typeof Type.Optional<Schemas[Name]>> }

/** The values of all mutable fields; columns of the row. */
export type MutableFields = { [Name in keyof Schemas]: Static<Schemas[Name]> }

const entries = Object.entries<Field>(FIELDS)
const fieldNames = Object.keys(FIELDS) as (keyof MutableFields)[]
/** All but the two that precede them in the documented order. */
export const otherFieldNames = fieldNames.filter((name) => name !== 'name' && name !== 'tags')
const schemasOf = (schemaOf: (field: Field) => TSchema) =>
  Object.fromEntries(entries.map(([name, field]) => [name, schemaOf(field)]))

/** Properties of the instance, of the create request and of the update request. */
export const shownFields = schemasOf(({ schema }) => schema) as Schemas
export const createFields = schemasOf(({ schema }) => Type.Optional(schema)) as Optional
export const updateFields = schemasOf(({ schema, updateDescription }) =>
  Type.Optional(updateDescription ? { ...schema, description: updateDescription } : schema),
) as Optional

/** The values of a new instance. */
export function initialFields(body: Partial<MutableFields>, id: string): MutableFields {
  const defaults = Object.fromEntries(entries.map(([name, { initial }]) => [name, initial(id)])) as MutableFields
  return { ...defaults, ...pickFields(body) }
}

/** The mutable fields that an object has, in the order of the table. */
export function pickFields<T extends Partial<MutableFields>, Name extends keyof MutableFields>(
  source: T,
  names: readonly Name[] = fieldNames as Name[],
): Pick<T, keyof T & Name> {
  const picked: Partial<Record<Name, unknown>> = {}
  for (const name of names) if (source[name] !== undefined) picked[name] = source[name]
  return picked as Pick<T, keyof T & Name>
}
