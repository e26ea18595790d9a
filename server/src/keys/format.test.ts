import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom, systemRandom } from '../lib/random.ts'
import { isWellFormed, KEY_PATTERN, keyDigest, keyPrefix, newKey } from './format.ts'

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

test('a new key has the documented format', () => {
  for (const mode of ['live', 'test'] as const) {
    const key = newKey(mode, systemRandom)
    assert.match(key, KEY_PATTERN)
    assert.ok(key.startsWith(`cn_${mode}_sk_`))
    assert.ok(isWellFormed(key))
  }
})

test('the checksum is CRC-32 in base 62', () => {
  // Computed by zlib.crc32 of Python.
  assert.ok(isWellFormed('cn_test_sk_000000000000000000000000000000000NV5A7'))
})

test('detects the change of any single character', () => {
  const key = newKey('live', systemRandom)
  for (let at = 0; at < key.length; at++) {
    for (const other of `${ALPHABET}_ é`) {
      if (other === key[at]) continue
      assert.equal(isWellFormed(key.slice(0, at) + other + key.slice(at + 1)), false, `${at} ${other}`)
    }
  }
})

test('detects a wrong character and two swapped neighbours at every position', () => {
  const anyKey = fc
    .tuple(fc.constantFrom('live' as const, 'test' as const), fc.integer())
    .map(([mode, seed]) => newKey(mode, seededRandom(seed)))
  fc.assert(
    fc.property(anyKey, fc.nat(48), fc.string({ minLength: 1, maxLength: 1, unit: 'binary' }), (key, at, other) => {
      assert.ok(isWellFormed(key))
      const changed = key.slice(0, at) + other + key.slice(at + 1)
      assert.equal(isWellFormed(changed), changed === key)
      const swapped = key.slice(0, at) + (key[at + 1] ?? '') + key[at] + key.slice(at + 2)
      assert.equal(isWellFormed(swapped), swapped === key)
      assert.equal(isWellFormed(key.slice(0, at) + key.slice(at + 1)), false)
    }),
    { numRuns: 5_000 },
  )
})

test('the key in the documentation is not valid', () => {
  assert.equal(isWellFormed('cn_live_sk_9f8e7d6c5b4a3210'), false)
})

test('characters are uniformly distributed at every position, and keys do not repeat', () => {
  const COUNT = 20_000
  const places = Array.from({ length: 32 }, () => new Map<string, number>())
  const keys = new Set<string>()
  for (let i = 0; i < COUNT; i++) {
    const key = newKey('live', systemRandom)
    keys.add(key)
    places.forEach((count, at) => void count.set(key[11 + at]!, (count.get(key[11 + at]!) ?? 0) + 1))
  }
  assert.equal(keys.size, COUNT)
  const expected = COUNT / ALPHABET.length
  const deviations = places.map((count) =>
    [...ALPHABET].reduce((sum, c) => sum + ((count.get(c) ?? 0) - expected) ** 2 / expected, 0),
  )
  // Chi-square with 61 degrees of freedom is above 140 once in twenty million; all 32 together above 2,300 as rarely.
  for (const chi of deviations) assert.ok(chi < 140, String(chi))
  assert.ok(deviations.reduce((sum, chi) => sum + chi) < 2_300)
})

test('the digest depends on the pepper, and the prefix reveals few characters', () => {
  const key = newKey('live', systemRandom)
  const [a, b] = [keyDigest(key, new Uint8Array(32)), keyDigest(key, new Uint8Array(32).fill(1))]
  assert.equal(a.length, 32)
  assert.notDeepEqual(a, b)
  assert.equal(keyPrefix(key), `${key.slice(0, 15)}...${key.slice(-4)}`)
})
