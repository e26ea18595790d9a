import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { sizeOf } from './body.ts'

function depthOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0
  return 1 + Math.max(0, ...Object.values(value).map(depthOf))
}

function entriesOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0
  const values: unknown[] = Object.values(value)
  return values.reduce((sum: number, each) => sum + entriesOf(each), Math.max(1, values.length))
}

test('finds the nesting and the number of entries of every JSON text', () => {
  const odd = fc.constantFrom('"', '\\\\', '{', '[', ',', '\\"', '\\\\"', '}', ']')
  const text = fc.string({ unit: fc.oneof(odd, fc.string({ minLength: 1, maxLength: 1 })) })
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof({ maxDepth: 5 }, text, fc.double(), fc.array(tie('tree')), fc.dictionary(text, tie('tree'))),
  }))
  fc.assert(
    fc.property(tree, fc.constantFrom(undefined, 2), (value, indent) => {
      const known = JSON.parse(JSON.stringify(value))
      assert.deepEqual(sizeOf(JSON.stringify(known, null, indent)), {
        depth: depthOf(known),
        entries: entriesOf(known),
      })
    }),
  )
})

test('ends for every text', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => assert.ok(sizeOf(text).entries <= text.length)))
  for (const text of ['"', '"\\', '\\', '"\\"']) assert.deepEqual(sizeOf(text), { depth: 0, entries: 0 })
})
