/** Examples for the OpenAPI document, built from the examples of the fields. Pure. */

/** The part of JSON Schema that examples and generated requests use. */
export type Schema = {
  $ref?: string
  type?: string | (string | undefined)[]
  enum?: unknown[]
  const?: unknown
  default?: unknown
  example?: unknown
  examples?: unknown[]
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: boolean | Schema
  propertyNames?: Schema
  items?: Schema
  anyOf?: Schema[]
  oneOf?: Schema[]
  minimum?: number
  maximum?: number
  minLength?: number
  maxLength?: number
  minItems?: number
  maxItems?: number
  maxProperties?: number
  uniqueItems?: boolean
  pattern?: string
  format?: string
}
export type NamedSchemas = Record<string, Schema>

/** Resolves a reference within the document; other schemas are returned unchanged. */
export function resolve(schema: Schema, named: NamedSchemas): Schema {
  const name = schema.$ref?.split('/').at(-1)
  return name === undefined ? schema : resolve(named[name]!, named)
}

/**
 * A value that matches the schema: its own example, or one built from its fields. Undefined for a string without an
 * example: its schema needs one.
 * @param fields which optional fields to include: all (responses), or only those with an example (requests)
 */
export function exampleOf(schema: Schema, named: NamedSchemas, fields: 'all' | 'with_example'): unknown {
  const { type, items, properties, required = [], ...rest } = resolve(schema, named)
  const given = rest.examples?.[0] ?? rest.example ?? rest.const ?? rest.default ?? rest.enum?.[0]
  if (given !== undefined) return given
  const choice = rest.anyOf ?? rest.oneOf
  if (choice?.some((one) => one.type === 'null')) return null
  if (choice) return exampleOf(choice[0]!, named, fields)
  const types = [type].flat()
  if (properties || types.includes('object')) {
    const shown = Object.entries(properties ?? {}).filter(
      ([name, field]) => fields === 'all' || required.includes(name) || resolve(field, named).examples !== undefined,
    )
    return Object.fromEntries(shown.map(([name, field]) => [name, exampleOf(field, named, fields)]))
  }
  if (types.includes('array')) return [exampleOf(items ?? {}, named, fields)]
  if (types.includes('null')) return null
  if (types.includes('boolean')) return true
  if (types.includes('integer') || types.includes('number')) return rest.minimum ?? 0
  return undefined
}
