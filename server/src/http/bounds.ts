/**
 * Bounds the work of a validation by the schema instead of the body. Ajv checks every entry of a list and every field of an
 * object, also beyond `maxItems`, and collects every error, so its work grows with the body, for some keywords with the
 * square of it. Before a body is validated, this file cuts its lists and objects to what the schema can accept, and
 * reports each cut as an error: a body that is cut is never valid, and what is left has as many errors as anyone reads.
 */
import type { ErrorObject } from 'ajv'
import { escapePointer } from '../lib/json-pointer.ts'

/** Entries of a list, and fields of an object with free names, if the schema has no bound. */
export const DEFAULT_BOUND = 1_000
/** Unknown fields of one object that are reported. */
const UNKNOWN_FIELDS = 100

interface Schema {
  $ref?: string
  items?: Schema
  maxItems?: number
  properties?: Record<string, Schema>
  additionalProperties?: boolean | Schema
  patternProperties?: Record<string, Schema>
  maxProperties?: number
  anyOf?: Schema[]
  oneOf?: Schema[]
  allOf?: Schema[]
  if?: Schema
  then?: Schema
  else?: Schema
}

/** The schemas that apply to a value, and what follows from them for the values in it. */
type Node = {
  maxItems: number
  /** Null: fields with names that the schema does not list are errors. */
  maxOthers: number | null
  names: ReadonlySet<string>
  items(): Node | null
  field(name: string): Node | null
}

/** Cuts a value. Returns it unchanged if nothing is cut, otherwise a copy and the errors. */
export type Bound = (value: unknown) => { value: unknown; errors: ErrorObject[] }

/** Prepares the bounds of a schema. @param shared by `$id`, for references */
export function boundsOf(schema: object, shared: ReadonlyMap<string, object>): Bound {
  const root = nodeOf([schema as Schema], shared as ReadonlyMap<string, Schema>)
  return (value) => {
    const errors: ErrorObject[] = []
    return { value: root === null ? value : cut(root, value, '', errors), errors }
  }
}

function nodeOf(given: readonly Schema[], shared: ReadonlyMap<string, Schema>): Node | null {
  const schemas = flat(given, shared)
  if (schemas.length === 0) return null
  const fields = new Map<string, Node | null>()
  const names = new Set(schemas.flatMap((each) => Object.keys(each.properties ?? {})))
  const objects = schemas.filter(
    ({ properties, additionalProperties, patternProperties }) =>
      properties !== undefined || additionalProperties !== undefined || patternProperties !== undefined,
  )
  const isClosed =
    objects.length > 0 && objects.every((each) => each.additionalProperties === false && !each.patternProperties)
  let items: Node | null | undefined
  const others = schemas.flatMap(({ additionalProperties, patternProperties = {} }) => [
    ...(typeof additionalProperties === 'object' ? [additionalProperties] : []),
    ...Object.values(patternProperties),
  ])
  return {
    maxItems: largest(schemas.filter((each) => each.items !== undefined).map((each) => each.maxItems)),
    maxOthers: isClosed ? null : largest(objects.map((each) => each.maxProperties)),
    names,
    items: () =>
      (items ??= nodeOf(
        schemas.flatMap((each) => each.items ?? []),
        shared,
      )),
    field(name) {
      // Free names share one entry, so that a body adds none.
      const key = names.has(name) ? `=${name}` : ''
      if (!fields.has(key)) {
        const known = schemas.flatMap((each) => (key === '' ? [] : (each.properties?.[name] ?? [])))
        fields.set(key, nodeOf([...known, ...others], shared))
      }
      return fields.get(key)!
    },
  }
}

/** What no schema accepts is not cut: Ajv reports its type and does not read it. */
const largest = (bounds: (number | undefined)[]) =>
  bounds.length === 0 ? Infinity : Math.max(...bounds.map((bound) => bound ?? DEFAULT_BOUND))

/** A schema with all schemas that may apply to the same value. */
function flat(given: readonly Schema[], shared: ReadonlyMap<string, Schema>): Schema[] {
  const found = new Set<Schema>()
  const visit = (schema: Schema | undefined) => {
    if (typeof schema !== 'object' || found.has(schema)) return
    found.add(schema)
    if (schema.$ref !== undefined) visit(shared.get(schema.$ref.replace(/#$/, '')))
    for (const each of [schema.anyOf, schema.oneOf, schema.allOf].flatMap((list) => list ?? [])) visit(each)
    for (const each of [schema.if, schema.then, schema.else]) visit(each)
  }
  given.forEach(visit)
  return [...found]
}

function cut(node: Node, value: unknown, pointer: string, errors: ErrorObject[]): unknown {
  if (Array.isArray(value)) return cutList(node, value, pointer, errors)
  if (typeof value === 'object' && value !== null) return cutObject(node, value, pointer, errors)
  return value
}

function cutList(node: Node, list: unknown[], pointer: string, errors: ErrorObject[]): unknown[] {
  const kept = list.length > node.maxItems ? list.slice(0, node.maxItems) : list
  if (kept !== list) errors.push(tooMany('maxItems', pointer, node.maxItems))
  const items = node.items()
  if (items === null) return kept
  let copy: unknown[] | null = kept === list ? null : kept
  for (let i = 0; i < kept.length; i++) {
    const entry = cut(items, kept[i], `${pointer}/${i}`, errors)
    if (entry === kept[i]) continue
    copy ??= [...kept]
    copy[i] = entry
  }
  return copy ?? list
}

function cutObject(node: Node, object: object, pointer: string, errors: ErrorObject[]): object {
  const given = Object.keys(object)
  const limit = node.maxOthers ?? UNKNOWN_FIELDS
  const isCut = given.length > node.names.size + limit
  let others = 0
  const kept = isCut ? given.filter((name) => node.names.has(name) || others++ < limit) : given
  if (isCut && node.maxOthers !== null) errors.push(tooMany('maxProperties', pointer, node.maxOthers))
  const values = object as Record<string, unknown>
  let copy: Record<string, unknown> | null = isCut ? pick(values, kept) : null
  for (const name of kept) {
    const field = node.field(name)
    if (field === null || typeof values[name] !== 'object') continue
    const next = cut(field, values[name], `${pointer}/${escapePointer(name)}`, errors)
    if (next === values[name]) continue
    copy ??= { ...values }
    copy[name] = next
  }
  return copy ?? object
}

function pick(values: Record<string, unknown>, names: string[]): Record<string, unknown> {
  return Object.fromEntries(names.map((name) => [name, values[name]]))
}

function tooMany(keyword: 'maxItems' | 'maxProperties', instancePath: string, limit: number): ErrorObject {
  return { keyword, instancePath, schemaPath: '', params: { limit } }
}
