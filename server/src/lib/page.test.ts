import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ApiError } from './errors.ts'
import { type CursorContext, readCursor, writeCursor } from './page.ts'

const key = new Uint8Array(32).fill(7)
const context: CursorContext = { environment_id: 'env_1', path: '/v2/instances', filters: { status: 'running' } }
const refused = (error: unknown) => error instanceof ApiError && error.code === 'invalid_cursor'
const ordinals = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })

test('reads the ordinal that was written to a cursor', () => {
  fc.assert(fc.property(ordinals, (at) => readCursor(key, context, writeCursor(key, context, at)) === at))
})

test('ignores omitted filters and the order of filters', () => {
  const cursor = writeCursor(key, { ...context, filters: { a: '1', b: '2', c: undefined } }, 5)
  assert.equal(readCursor(key, { ...context, filters: { b: '2', a: '1' } }, cursor), 5)
})

test('rejects a cursor of another list, filter, environment or installation', () => {
  const cursor = writeCursor(key, context, 42)
  const others: [Uint8Array, CursorContext][] = [
    [new Uint8Array(32), context],
    [key, { ...context, environment_id: 'env_2' }],
    [key, { ...context, path: '/v2/images' }],
    [key, { ...context, filters: {} }],
    [key, { ...context, filters: { status: 'stopped' } }],
    [key, { ...context, filters: { status: 'running', sort: 'created_at' } }],
  ]
  for (const [k, c] of others) assert.throws(() => readCursor(k, c, cursor), refused)
})

test('rejects a cursor with any changed character, and any other text', () => {
  const cursor = writeCursor(key, context, 123456)
  const changed = fc
    .tuple(fc.nat(cursor.length - 1), fc.constantFrom(...'ABCxyz019-_=%. \n'))
    .filter(([at, c]) => cursor[at] !== c)
  fc.assert(
    fc.property(changed, ([at, c]) => {
      assert.throws(() => readCursor(key, context, cursor.slice(0, at) + c + cursor.slice(at + 1)), refused)
    }),
  )
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => assert.throws(() => readCursor(key, context, text), refused)),
  )
  assert.throws(() => readCursor(key, context, `${cursor}=`), refused)
})

test('cursors of neighbouring ordinals share few bytes', () => {
  const [a, b] = [writeCursor(key, context, 1), writeCursor(key, context, 2)].map((text) =>
    Buffer.from(text, 'base64url'),
  )
  const same = a!.filter((byte, i) => byte === b![i]).length
  assert.ok(same < 6, `${same} of ${a!.length} bytes are the same`)
})
