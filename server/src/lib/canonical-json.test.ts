import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { canonicalJson, digestOf } from './canonical-json.ts'

test('sorts members as in the example of RFC 8785, 3.2.3', () => {
  const members = {
    '\u20ac': 'Euro Sign',
    '\r': 'Carriage Return',
    '\ufb33': 'Hebrew',
    '1': 'One',
    '\u0080': 'Control',
  }
  assert.deepEqual(Object.keys(JSON.parse(canonicalJson(members))).length, 5)
  const order = [...canonicalJson(members).matchAll(/"((?:[^"\\]|\\.)*)":/g)].map((match) =>
    JSON.parse(`"${match[1]}"`),
  )
  assert.deepEqual(order, ['\r', '1', '\u0080', '\u20ac', '\ufb33'])
})

test('returns the same text for any order of members, and another text for any other difference', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (object) => {
      const turned = Object.fromEntries(Object.entries(object).reverse())
      assert.equal(canonicalJson(turned), canonicalJson(object))
      assert.deepEqual(JSON.parse(canonicalJson(object)), JSON.parse(JSON.stringify(object)))
    }),
  )
  fc.assert(
    fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
      const same = canonicalJson(a) === canonicalJson(b)
      assert.equal(digestOf(a).equals(digestOf(b)), same)
    }),
  )
})

test('omits undefined members', () => {
  assert.equal(canonicalJson({ b: undefined, a: [undefined, 1] }), '{"a":[null,1]}')
})
