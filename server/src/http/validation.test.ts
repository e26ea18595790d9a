import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type TSchema, Type } from 'typebox'
import type { ApiError } from '../lib/errors.ts'
import { Id, Nullable, OneOf, Text } from './schemas.ts'
import { counted } from './testing-reads.ts'
import { buildValidator, schemaError } from './validation.ts'

const compile = buildValidator({})

function check(schema: TSchema, data: unknown, part: 'body' | 'querystring' | 'params' = 'body'): ApiError | null {
  const validate = compile({ schema, httpPart: part })
  return validate(data) ? null : schemaError(validate.errors!, part)
}
const errorsOf = (error: ApiError | null) => error?.errors?.map((e) => [e.pointer ?? e.parameter, e.code, e.message])
const closed = { additionalProperties: false }

test('reports all errors, each with pointer, code and message', () => {
  const schema = Type.Object(
    {
      name: Text({ minLength: 1, maxLength: 5, description: '' }),
      count: Type.Integer({ minimum: 1, maximum: 3 }),
      region: Type.String(),
      power: OneOf(['on', 'off'], ''),
      key: Id('ssh', ''),
      list: Type.Array(Type.Integer(), { maxItems: 2, uniqueItems: true }),
      inner: Type.Object({ flag: Type.Boolean() }, closed),
      maybe: Nullable(Type.String()),
    },
    closed,
  )
  const data = {
    name: '',
    count: '2',
    power: 'up',
    key: 'nonsense',
    list: [2, 2, 1],
    inner: { flag: 1, 'a/b~c': true },
    maybe: 5,
    colour: 'red',
  }
  const error = check(schema, data)
  assert.equal(error?.status, 422)
  assert.deepEqual(errorsOf(error)?.sort(), [
    ['/colour', 'unknown_field', 'colour is not a field of this request; remove it or check the spelling'],
    ['/count', 'wrong_type', 'count must be an integer, not a string'],
    ['/inner/a~1b~0c', 'unknown_field', 'inner/a/b~c is not a field of this request; remove it or check the spelling'],
    ['/inner/flag', 'wrong_type', 'inner/flag must be true or false, not a number'],
    ['/key', 'invalid', 'key must be an ID such as ssh_3x9y2z1a0b'],
    ['/list', 'duplicate', 'list must not contain duplicates (entries 0 and 1)'],
    ['/list', 'too_many', 'list must have at most 2 entries'],
    ['/maybe', 'wrong_type', 'maybe must be a string or null, not a number'],
    ['/name', 'too_short', 'name must not be empty'],
    ['/power', 'not_allowed', 'power must be one of on, off'],
    ['/region', 'required', 'region is required'],
  ])
})

test('rejects text with control characters or lone surrogates, and accepts all other text', () => {
  const schema = Text({ maxLength: 100, description: '' })
  for (const bad of ['a\nb', '\0', 'a\u001b[31m', '\u0085', '\ud800', 'x\udc00y']) {
    assert.deepEqual(errorsOf(check(schema, bad)), [
      ['', 'invalid', 'The request body must be text without control characters'],
    ])
  }
  for (const good of ['', 'Zoë', '😀', '"quoted", =', "'; drop table", '../..']) assert.equal(check(schema, good), null)
})

test('names the invalid key of an object', () => {
  const names = { type: 'string', pattern: '^[a-z]+$', 'x-rule': 'lower-case letters' }
  const schema = Type.Unsafe({ type: 'object', propertyNames: names, additionalProperties: Type.String() })
  assert.deepEqual(errorsOf(check(schema, { good: 'x', 'B AD': 'y' })), [
    ['/B AD', 'invalid_name', 'B AD is not a valid name: it must be lower-case letters'],
  ])
})

test('reports one error for a failed anyOf, not one for each branch', () => {
  const schema = Type.Object({
    port: Type.Union([Type.Integer(), Type.Object({ port: Type.Integer() })], { 'x-rule': 'a port number' }),
  })
  assert.deepEqual(errorsOf(check(schema, { port: true })), [['/port', 'invalid', 'port must be a port number']])
})

test('converts query parameters, but not bodies; an invalid parameter is 400 with its name', () => {
  const schema = Type.Object({ limit: Type.Integer({ maximum: 100 }), tag: Type.Array(Type.String()) }, closed)
  const query = { limit: '20', tag: 'a:b' }
  assert.equal(check(schema, query, 'querystring'), null)
  assert.deepEqual(query, { limit: 20, tag: ['a:b'] })
  const error = check(schema, { limit: '1000', tag: [], api_key: 'x' }, 'querystring')
  assert.equal(error?.status, 400)
  assert.deepEqual(errorsOf(error), [
    ['api_key', 'unknown_parameter', 'api_key is not a parameter of this request; remove it or check the spelling'],
    ['limit', 'too_large', 'limit must be at most 100'],
  ])
  assert.equal(check(schema, { limit: '20', tag: [] })?.status, 422)
})

test('rejects infinite numbers in a query, with and without bounds', () => {
  for (const bounds of [{}, { minimum: 1, maximum: 100 }]) {
    const schema = Type.Object({ limit: Type.Optional(Type.Integer(bounds)) }, closed)
    for (const limit of ['1e309', '-1e309', 'Infinity', 'NaN', '1.5', '', 'x']) {
      assert.equal(check(schema, { limit }, 'querystring')?.status, 400, limit)
    }
    assert.equal(check(schema, { limit: '7' }, 'querystring'), null)
    assert.equal(check(schema, {}, 'querystring'), null)
  }
})

test('x-max-bytes counts bytes; maxLength counts characters', () => {
  const schema = Type.String({ maxLength: 8, 'x-max-bytes': 8 })
  assert.equal(check(schema, 'x'.repeat(8)), null)
  assert.equal(check(schema, '😀😀'), null)
  assert.deepEqual(errorsOf(check(schema, '😀😀x')), [
    ['', 'too_long', 'The request body must have at most 8 bytes in UTF-8'],
  ])
})

test('returns 404 for a path parameter that is no valid ID', () => {
  const error = check(Type.Object({ id: Id('inst', '') }), { id: "inst_'or 1=1" }, 'params')
  assert.equal(error?.status, 404)
  assert.equal(error?.errors, undefined)
})

test('rejects a body that is missing or not an object', () => {
  const schema = Type.Object({ name: Type.String() }, closed)
  assert.deepEqual(errorsOf(check(schema, null)), [['', 'wrong_type', 'The request body must be an object, not null']])
  assert.deepEqual(errorsOf(check(schema, [])), [
    ['', 'wrong_type', 'The request body must be an object, not an array'],
  ])
})

test('limits the number and length of errors for a hostile body', () => {
  const data = Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`${'x'.repeat(500)}${i}`, 1]))
  const error = check(Type.Object({}, closed), data)
  assert.equal(error?.errors?.length, 100)
  assert.ok(JSON.stringify(error?.errors).length < 100_000)
})

test('reads as much of a body with ten times the entries, and reports a hundred errors', () => {
  const item = Type.Union([Type.Integer(), Type.Object({ port: Type.Integer() }, closed)])
  const schema = Type.Object({ list: Type.Array(item, { maxItems: 50, uniqueItems: true }) }, closed)
  const validate = compile({ schema, httpPart: 'body' })
  const reads = (length: number) => {
    const { value, count } = counted({ list: Array.from({ length }, (_, i) => ({ port: '', [`x${i}`]: i })) })
    assert.equal(validate(value), false)
    assert.equal(schemaError(validate.errors!, 'body').errors?.length, 51)
    return count()
  }
  assert.equal(reads(20_000), reads(2_000))
})
