import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type TSchema, Type } from 'typebox'
import type { ApiError } from '../lib/errors.ts'
import { Id, Nullable, OneOf, Text } from './schemas.ts'
import { buildValidator, schemaError } from './validation.ts'

const compile = buildValidator({})

function check(schema: TSchema, data: unknown, part: 'body' | 'querystring' | 'params' = 'body'): ApiError | null {
  const validate = compile({ schema, httpPart: part })
  return validate(data) ? null : schemaError(validate.errors!, part)
}
const told = (error: ApiError | null) => error?.errors?.map((e) => [e.pointer ?? e.parameter, e.code, e.message])
const closed = { additionalProperties: false }

test('all errors at once, each with pointer, code and what to do', () => {
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
    list: [1, 2, 2],
    inner: { flag: 1, 'a/b~c': true },
    maybe: 5,
    colour: 'red',
  }
  const error = check(schema, data)
  assert.equal(error?.status, 422)
  assert.deepEqual(told(error)?.sort(), [
    ['/colour', 'unknown_field', 'colour is not a field of this request; remove it or check the spelling'],
    ['/count', 'wrong_type', 'count must be a whole number, not text'],
    ['/inner/a~1b~0c', 'unknown_field', 'inner/a/b~c is not a field of this request; remove it or check the spelling'],
    ['/inner/flag', 'wrong_type', 'inner/flag must be true or false, not a number'],
    ['/key', 'invalid', 'key must be an identifier such as ssh_3x9y2z1a0b'],
    ['/list', 'duplicate', 'list must not name the same twice (entries 1 and 2)'],
    ['/list', 'too_many', 'list must have at most 2 entries'],
    ['/maybe', 'wrong_type', 'maybe must be text or null, not a number'],
    ['/name', 'too_short', 'name must not be empty'],
    ['/power', 'not_allowed', 'power must be one of on, off'],
    ['/region', 'required', 'region is required'],
  ])
})

test('text with control characters or half characters is refused, all else is taken', () => {
  const schema = Text({ maxLength: 100, description: '' })
  for (const bad of ['a\nb', '\0', 'a\u001b[31m', '\u0085', '\ud800', 'x\udc00y']) {
    assert.deepEqual(told(check(schema, bad)), [['', 'invalid', 'The body must be text without control characters']])
  }
  for (const good of ['', 'Zoë', '😀', '"quoted", =', "'; drop table", '../..']) assert.equal(check(schema, good), null)
})

test('names of properties', () => {
  const names = { type: 'string', pattern: '^[a-z]+$', 'x-rule': 'lower-case letters' }
  const schema = Type.Unsafe({ type: 'object', propertyNames: names, additionalProperties: Type.String() })
  assert.deepEqual(told(check(schema, { good: 'x', 'B AD': 'y' })), [
    ['/B AD', 'invalid_name', 'B AD is not a valid name: it must be lower-case letters'],
  ])
})

test('a choice of shapes is one error, not one for each shape', () => {
  const schema = Type.Object({
    port: Type.Union([Type.Integer(), Type.Object({ port: Type.Integer() })], { 'x-rule': 'a port number' }),
  })
  assert.deepEqual(told(check(schema, { port: true })), [['/port', 'invalid', 'port must be a port number']])
})

test('queries are converted, bodies are not; what is wrong with a query is 400 and names the parameter', () => {
  const schema = Type.Object({ limit: Type.Integer({ maximum: 100 }), tag: Type.Array(Type.String()) }, closed)
  const query = { limit: '20', tag: 'a:b' }
  assert.equal(check(schema, query, 'querystring'), null)
  assert.deepEqual(query, { limit: 20, tag: ['a:b'] })
  const error = check(schema, { limit: '1000', tag: [], api_key: 'x' }, 'querystring')
  assert.equal(error?.status, 400)
  assert.deepEqual(told(error), [
    ['api_key', 'unknown_parameter', 'api_key is not a parameter of this request; remove it or check the spelling'],
    ['limit', 'too_large', 'limit must be at most 100'],
  ])
  assert.equal(check(schema, { limit: '20', tag: [] })?.status, 422)
})

test('a query number beyond all numbers is refused, whatever its bounds', () => {
  for (const bounds of [{}, { minimum: 1, maximum: 100 }]) {
    const schema = Type.Object({ limit: Type.Optional(Type.Integer(bounds)) }, closed)
    for (const limit of ['1e309', '-1e309', 'Infinity', 'NaN', '1.5', '', 'x']) {
      assert.equal(check(schema, { limit }, 'querystring')?.status, 400, limit)
    }
    assert.equal(check(schema, { limit: '7' }, 'querystring'), null)
    assert.equal(check(schema, {}, 'querystring'), null)
  }
})

test('a limit of bytes counts bytes, where maxLength counts characters', () => {
  const schema = Type.String({ maxLength: 8, 'x-max-bytes': 8 })
  assert.equal(check(schema, 'x'.repeat(8)), null)
  assert.equal(check(schema, '😀😀'), null)
  assert.deepEqual(told(check(schema, '😀😀x')), [['', 'too_long', 'The body must have at most 8 bytes in UTF-8']])
})

test('a path that no identifier has is 404', () => {
  const error = check(Type.Object({ id: Id('inst', '') }), { id: "inst_'or 1=1" }, 'params')
  assert.equal(error?.status, 404)
  assert.equal(error?.errors, undefined)
})

test('a body that is missing or not an object', () => {
  const schema = Type.Object({ name: Type.String() }, closed)
  assert.deepEqual(told(check(schema, null)), [['', 'wrong_type', 'The body must be an object, not empty']])
  assert.deepEqual(told(check(schema, [])), [['', 'wrong_type', 'The body must be an object, not a list']])
})

test('a hostile body does not make a huge answer', () => {
  const data = Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`${'x'.repeat(500)}${i}`, 1]))
  const error = check(Type.Object({}, closed), data)
  assert.equal(error?.errors?.length, 100)
  assert.ok(JSON.stringify(error?.errors).length < 100_000)
})
