/** Examples for the OpenAPI document, put together from those of the fields. Pure. */

/** As much of a JSON Schema as examples and generated requests need to know. */
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

/** The schema that a reference of the document means; others are returned as they are. */
export function resolve(schema: Schema, named: NamedSchemas): Schema {
  const name = schema.$ref?.split('/').at(-1)
  return name === undefined ? schema : resolve(named[name]!, named)
}

/**
 * A value that fits the schema: its own example, or one made of its fields'. Undefined where a text has no example: its
 * schema needs one.
 * @param fields which optional fields to show: all (answers), or only those that have an example (requests)
 */
export function exampleOf(schema: Schema, named: NamedSchemas, fields: 'all' | 'telling'): unknown {
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
