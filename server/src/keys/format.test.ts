import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemRandom } from '../lib/random.ts'
import { isWellFormed, KEY_PATTERN, keyDigest, keyPrefix, newKey } from './format.ts'

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

test('a new key has the published form', () => {
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

test('every change of a single character is noticed', () => {
  const key = newKey('live', systemRandom)
  for (let at = 0; at < key.length; at++) {
    for (const other of `${ALPHABET}_ é`) {
      if (other === key[at]) continue
      assert.equal(isWellFormed(key.slice(0, at) + other + key.slice(at + 1)), false, `${at} ${other}`)
    }
  }
})

test('the key that the page of the API prints is not valid', () => {
  assert.equal(isWellFormed('cn_live_sk_9f8e7d6c5b4a3210'), false)
})

test('characters are uniform and keys never repeat', () => {
  const count = new Map<string, number>()
  const keys = new Set<string>()
  for (let i = 0; i < 5_000; i++) {
    const key = newKey('live', systemRandom)
    keys.add(key)
    for (const c of key.slice(11, 43)) count.set(c, (count.get(c) ?? 0) + 1)
  }
  assert.equal(keys.size, 5_000)
  const expected = (5_000 * 32) / 62
  // Chi-square with 61 degrees of freedom: above 120 once in a hundred thousand runs.
  const chi = [...ALPHABET].reduce((sum, c) => sum + ((count.get(c) ?? 0) - expected) ** 2 / expected, 0)
  assert.ok(chi < 120, String(chi))
})

test('the digest needs the pepper, the prefix tells little', () => {
  const key = newKey('live', systemRandom)
  const [a, b] = [keyDigest(key, new Uint8Array(32)), keyDigest(key, new Uint8Array(32).fill(1))]
  assert.equal(a.length, 32)
  assert.notDeepEqual(a, b)
  assert.equal(keyPrefix(key), `${key.slice(0, 15)}...${key.slice(-4)}`)
})
