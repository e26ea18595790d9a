import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { SCOPES, type Scope } from '../keys/scopes.ts'
import { EVENT_TYPES, type EventType } from './catalog.ts'
import { isPattern, matches, PATTERNS, scopeOf, visibleTypes } from './patterns.ts'

const TYPES = Object.keys(EVENT_TYPES) as EventType[]

describe('patterns', () => {
  test('match an exact type, a family, or all types', () => {
    assert.ok(matches('*', 'instance.ready'))
    assert.ok(matches('instance.*', 'instance.ready'))
    assert.ok(matches('instance.ready', 'instance.ready'))
    for (const pattern of ['instance', 'instance.read', 'webhook.*', 'instance.stopped', 'inst*', '*.ready', '']) {
      assert.equal(matches(pattern, 'instance.ready'), false, pattern)
    }
    // A family name that is a prefix of another does not match it.
    assert.equal(matches('instance.*', 'instances.ready'), false)
  })

  test('only listed types, families and * are valid', () => {
    for (const pattern of ['*', 'instance.*', 'webhook.*', ...TYPES]) assert.ok(isPattern(pattern), pattern)
    for (const text of ['', '**', 'instance.', 'instance.nope', 'instance.**', 'toString', 'instance.ready ']) {
      assert.equal(isPattern(text), false, text)
    }
    for (const pattern of PATTERNS)
      assert.ok(
        TYPES.some((type) => matches(pattern, type)),
        `${pattern} means nothing`,
      )
  })
})

describe('visibleTypes', () => {
  test('every type requires an existing read scope', () => {
    for (const type of TYPES) {
      assert.ok(SCOPES.includes(scopeOf(type)), type)
      assert.match(scopeOf(type), /:read$/)
    }
    assert.throws(() => scopeOf('toString.x'), TypeError)
  })

  test('returns the types that match and are allowed; null for all', () => {
    const scopes = fc.subarray([...SCOPES])
    const patterns = fc.option(fc.subarray([...PATTERNS], { minLength: 1 }))
    fc.assert(
      fc.property(scopes, patterns, (scopes: Scope[], patterns) => {
        const visible = visibleTypes(scopes, patterns)
        for (const type of TYPES) {
          const expected =
            scopes.includes(scopeOf(type)) && (patterns === null || patterns.some((pattern) => matches(pattern, type)))
          assert.equal(visible === null || visible.includes(type), expected, type)
        }
      }),
    )
  })
})
