import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { type TSchema, Type } from 'typebox'
import { boundsOf, DEFAULT_BOUND } from './bounds.ts'

const closed = { additionalProperties: false }
const Rule = Type.Object({ ports: Type.Array(Type.Integer(), { maxItems: 2 }) }, { $id: 'Rule', ...closed })
const shared = new Map([['Rule', Rule as object]])
const bound = (schema: TSchema, value: unknown) => {
  const { value: kept, errors } = boundsOf(schema, shared)(value)
  return { kept, errors: errors.map(({ instancePath, keyword, params }) => [instancePath, keyword, params.limit]) }
}

test('cuts lists to maxItems, also in references and unions, and reports each', () => {
  const schema = Type.Object({
    rules: Type.Union([Type.Array(Type.Unsafe({ $ref: 'Rule#' }), { maxItems: 3 }), Type.Null()]),
  })
  const rule = { ports: [1, 2, 3, 4] }
  assert.deepEqual(bound(schema, { rules: [rule, rule, rule, rule] }), {
    kept: { rules: [{ ports: [1, 2] }, { ports: [1, 2] }, { ports: [1, 2] }] },
    errors: [
      ['/rules', 'maxItems', 3],
      ['/rules/0/ports', 'maxItems', 2],
      ['/rules/1/ports', 'maxItems', 2],
      ['/rules/2/ports', 'maxItems', 2],
    ],
  })
})

test('cuts a list without a bound to 1,000 entries', () => {
  const { kept, errors } = bound(Type.Array(Type.String()), Array(DEFAULT_BOUND + 1).fill(''))
  assert.equal((kept as []).length, 1_000)
  assert.deepEqual(errors, [['', 'maxItems', 1_000]])
})

test('keeps all known fields and a hundred unknown ones', () => {
  const schema = Type.Object({ a: Type.String(), z: Type.String() }, closed)
  const unknown = Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`u${i}`, i]))
  const { kept, errors } = bound(schema, { a: '', ...unknown, z: '' })
  assert.equal(Object.keys(kept as object).length, 102)
  assert.ok('a' in (kept as object) && 'z' in (kept as object))
  assert.deepEqual(errors, [])
})

test('keeps a hundred fields where the schema allows none', () => {
  const fields = Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`u${i}`, i]))
  const { kept } = bound(Type.Unsafe({ type: 'object', additionalProperties: false }), fields)
  assert.equal(Object.keys(kept as object).length, 100)
})

test('cuts an object with free names to maxProperties', () => {
  const schema = Type.Object({ 'a/b': Type.Record(Type.String(), Type.String(), { maxProperties: 2 }) })
  const { kept, errors } = bound(schema, { 'a/b': { x: '1', y: '2', z: '3' } })
  assert.deepEqual(kept, { 'a/b': { x: '1', y: '2' } })
  assert.deepEqual(errors, [['/a~1b', 'maxProperties', 2]])
})

test('returns a value that the schema accepts unchanged, and never makes an invalid one valid', () => {
  const schema = Type.Object(
    {
      list: Type.Optional(
        Type.Array(Type.Union([Type.Integer(), Type.Array(Type.Integer(), { maxItems: 2 })]), { maxItems: 3 }),
      ),
      map: Type.Optional(Type.Record(Type.String(), Type.Boolean(), { maxProperties: 2 })),
      any: Type.Optional(Type.Unknown()),
    },
    closed,
  )
  const isValid = new Ajv().compile(schema)
  const apply = boundsOf(schema, shared)
  const list = fc.array(fc.oneof(fc.integer(), fc.array(fc.integer(), { maxLength: 4 }), fc.string()), { maxLength: 5 })
  const map = fc.dictionary(fc.string(), fc.oneof(fc.boolean(), fc.integer()), { maxKeys: 4 })
  const value = fc.oneof(
    fc.record({ list, map, any: fc.jsonValue(), other: fc.integer() }, { requiredKeys: [] }),
    fc.jsonValue(),
  )
  fc.assert(
    fc.property(value, (given) => {
      const { value: kept, errors } = apply(given)
      assert.equal(isValid(kept) && errors.length === 0, isValid(given))
      if (isValid(given)) assert.equal(kept, given)
    }),
  )
})
