import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { difference, nextFree } from './uplink.ts'

const port = fc.integer({ min: 1_024, max: 1_030 })
const entry = fc.record({ host_addr: fc.constantFrom('127.1.2.3', '127.1.2.4'), host_port: port, guest_port: port })
const unique = fc.uniqueArray(entry, { selector: (each) => JSON.stringify(each), maxLength: 20 })

test('adds and removes what makes the observed forwards the desired ones, and nothing else', () => {
  fc.assert(
    fc.property(unique, unique, (desired, entries) => {
      const observed = entries.map((each, id) => ({ id, ...each }))
      const { missing, surplus } = difference(desired, observed)
      const kept = observed.filter((each) => !surplus.includes(each)).map(({ id: _id, ...each }) => each)
      const text = (list: object[]) => list.map((each) => JSON.stringify(each)).sort()
      assert.deepEqual(text([...kept, ...missing]), text(desired))
      const keys = new Set(text(desired))
      assert.ok(surplus.every(({ id: _id, ...each }) => !keys.has(JSON.stringify(each))))
    }),
  )
})

test('assigns a port that is not used, and repeats one only when all others are used', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 40_000 }),
      fc.uniqueArray(fc.integer({ min: 1_024, max: 1_060 })),
      (last, list) => {
        const used = new Set(list)
        const next = nextFree(last, used)
        assert.ok(next >= 1_024 && next < 32_768 && !used.has(next) && next !== last)
      },
    ),
  )
  const all = new Set(Array.from({ length: 31_744 }, (_, index) => 1_024 + index))
  assert.throws(() => nextFree(5_000, all), /could not be forwarded|in use/)
  all.delete(4_999)
  assert.equal(nextFree(5_000, all), 4_999)
})
