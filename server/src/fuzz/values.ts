/** Generators of values from JSON Schemas. The values match the schema; examples improve them. */
import fc from 'fast-check'
import { type NamedSchemas, resolve, type Schema } from '../http/examples.ts'
import { ID_LENGTHS, type IdType } from '../lib/id.ts'
import { idType } from './document.ts'

export const ORIGINS = ['own', 'other', 'deleted', 'missing'] as const

/** A placeholder for the ID of the n-th resource, chosen when the request is sent. */
export class Pick {
  readonly type: string
  readonly from: (typeof ORIGINS)[number]
  readonly n: number
  constructor(type: string, from: (typeof ORIGINS)[number], n: number) {
    this.type = type
    this.from = from
    this.n = n
  }
}

/** A placeholder for a text of the tenant that the other tenant must never receive. */
export class Canary {
  readonly n: number
  constructor(n: number) {
    this.n = n
  }
}

export const pick = (type: string, from: Pick['from']): fc.Arbitrary<Pick> =>
  fc.nat(20).map((n) => new Pick(type, from, n))
const canary = fc.nat(1_000_000).map((n) => new Canary(n))

/** An ID that no resource has. */
export const missingId = (type: string): string => `${type}_${'z'.repeat(ID_LENGTHS[type as IdType] ?? 10)}`

/** Patterns that only exclude characters: `Text` of http/schemas.ts, and multi-line texts. */
const ANY_TEXT = ['^[^\\p{Cc}\\p{Cs}]*$', '^\\P{Cs}*$']

/** Returns a function that makes the generator of a schema, once per schema. */
export function createValues(named: NamedSchemas) {
  const known = new Map<Schema, fc.Arbitrary<unknown>>()

  function valueFor(schema: Schema, name = ''): fc.Arbitrary<unknown> {
    const found = known.get(schema)
    if (found) return found
    const made = make(resolve(schema, named), name)
    known.set(schema, made)
    return made
  }

  function make(schema: Schema, name: string): fc.Arbitrary<unknown> {
    const { enum: words, const: word, anyOf, oneOf, items = {}, minItems = 0, maxItems = 5 } = schema
    if (word !== undefined) return fc.constant(word)
    if (words) return fc.constantFrom(...words)
    const choice = anyOf ?? oneOf
    if (choice) return fc.oneof(...choice.map((one) => valueFor(one, name)))
    const types = [schema.type].flat().filter((type) => type !== 'null')
    if (types.includes('object') || schema.properties) return objectOf(schema)
    if (types.includes('array')) {
      const size = { minLength: minItems, maxLength: Math.min(maxItems, 5) }
      const list = fc.array(valueFor(items), size)
      return schema.uniqueItems
        ? list.map((values) => [...new Map(values.map((one) => [JSON.stringify(one), one])).values()])
        : list
    }
    if (types.includes('integer')) {
      const { minimum = -(2 ** 31), maximum = 2 ** 31 } = schema
      return fc.oneof(fc.integer({ min: minimum, max: maximum }), fc.constantFrom(minimum, maximum))
    }
    if (types.includes('number'))
      return fc.double({ min: schema.minimum ?? -1e6, max: schema.maximum ?? 1e6, noNaN: true })
    if (types.includes('boolean')) return fc.boolean()
    if (types.includes('string')) return textOf(schema, name)
    return fc.constantFrom(null, true, 1, 'x', [], {})
  }

  function objectOf(schema: Schema): fc.Arbitrary<unknown> {
    const { properties = {}, required = [], additionalProperties, propertyNames, examples = [] } = schema
    const fields = Object.fromEntries(Object.entries(properties).map(([name, field]) => [name, valueFor(field, name)]))
    const record = fc.record(fields, { requiredKeys: required.filter((name) => name in fields) })
    if (typeof additionalProperties !== 'object') return record
    const keys = propertyNames ? valueFor(propertyNames) : fc.string({ maxLength: 10 })
    const map = fc.dictionary(keys as fc.Arbitrary<string>, valueFor(additionalProperties), {
      maxKeys: Math.min(schema.maxProperties ?? 5, 5),
    })
    return examples.length > 0 ? fc.oneof(map, fc.constantFrom(...examples)) : map
  }

  function textOf(schema: Schema, name: string): fc.Arbitrary<unknown> {
    const { pattern, examples = [], minLength = 0, maxLength = 200, format } = schema
    const type = idType(schema)
    if (type) return pick(type, 'own')
    const given = examples.length > 0 ? [fc.constantFrom(...examples)] : []
    if (format !== undefined && given.length > 0) return given[0]!
    const isFree = pattern === undefined || ANY_TEXT.includes(pattern)
    // A free text with examples is a name, or has a format that no pattern states.
    if (isFree && pattern && given.length > 0 && name !== 'name') return given[0]!
    if (isFree && pattern === undefined && given.length > 0) return given[0]!
    const made = isFree ? freeText(minLength, maxLength) : matching(pattern!, schema)
    // Names are what a leak would reveal.
    return name === 'name' || name === 'description' || isFree
      ? fc.oneof(made, canary, ...given)
      : fc.oneof(made, ...given)
  }

  return valueFor
}

function freeText(minLength: number, maxLength: number): fc.Arbitrary<string> {
  return fc
    .oneof(
      fc.string({ unit: 'grapheme', minLength, maxLength: Math.min(maxLength, 30) }),
      fc.constant('x'.repeat(Math.min(maxLength, 70_000))),
      fc.constant('x'.repeat(minLength)),
    )
    .map((text) => text.replace(/[\p{Cc}\p{Cs}]/gu, ''))
    .filter((text) => [...text].length >= minLength && [...text].length <= maxLength)
}

/** The generator does not support lookahead assertions and negated classes: they are removed, and values that violate them are filtered. */
function matching(
  pattern: string,
  { minLength = 0, maxLength = Number.POSITIVE_INFINITY }: Schema,
): fc.Arbitrary<string> {
  const simple = pattern.replace(/\(\?[!=][^)]*\)/g, '').replaceAll('[^\\p{Cc}\\p{Cs}]', '[ -~]')
  const whole = new RegExp(pattern, 'u')
  return fc
    .stringMatching(new RegExp(simple))
    .filter((text) => whole.test(text) && text.length >= minLength && text.length <= maxLength)
}
