import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { canonicalRange, clientAddress, contains, isAllowedFrom } from './ip.ts'

describe('address lists', () => {
  test('returns the canonical form of a range', () => {
    const same: [string, string][] = [
      ['203.0.113.7', '203.0.113.7'],
      ['203.0.113.7/32', '203.0.113.7'],
      ['10.0.0.0/8', '10.0.0.0/8'],
      ['0.0.0.0/0', '0.0.0.0/0'],
      ['2001:DB8:0::/32', '2001:db8::/32'],
      ['2001:db8::1/128', '2001:db8::1'],
      ['::/0', '::/0'],
      ['::ffff:10.0.0.0/104', '10.0.0.0/8'],
      ['::ffff:203.0.113.7', '203.0.113.7'],
    ]
    for (const [text, range] of same) assert.deepEqual(canonicalRange(text), { range }, text)
  })

  test('rejects an invalid range, and one that does not begin at its first IP address', () => {
    const wrong = ['', 'x', '10', '10.1', '010.0.0.1', '0x7f.1', '10.0.0.0/33', '10.0.0.0/', '10.0.0.0/8/8', '::1/129']
    wrong.push('fe80::1%eth0', '::ffff:0.0.0.0/90', ' 10.0.0.1', '10.0.0.1\n', '10.0.0.0/-1', 'localhost')
    for (const text of wrong) assert.ok('error' in canonicalRange(text), text)
    assert.deepEqual(canonicalRange('10.1.2.3/8'), {
      error: 'must begin at the first IP address of the range: 10.0.0.0/8',
    })
  })

  test('compares clients in canonical form and allows no invalid IP address', () => {
    assert.equal(clientAddress('::ffff:127.0.0.1'), '127.0.0.1')
    assert.equal(clientAddress('2001:DB8::1'), '2001:db8::1')
    for (const text of [undefined, '', 'unknown', '1.2.3.4:80', '_hidden', 'fe80::1%eth0']) {
      assert.equal(clientAddress(text), null)
      assert.equal(isAllowedFrom(['0.0.0.0/0', '::/0'], text), false)
      assert.equal(isAllowedFrom(null, text), true)
    }
    assert.equal(isAllowedFrom(['10.0.0.0/8'], '::ffff:10.9.9.9'), true)
    assert.equal(isAllowedFrom(['10.0.0.0/8'], '11.0.0.1'), false)
    assert.equal(isAllowedFrom(['::/0'], '10.0.0.1'), false)
    assert.equal(isAllowedFrom(['2001:db8::/32'], '2001:db8:ffff::1'), true)
  })

  test('a range contains another if and only if it contains its first and last address', () => {
    const range = fc.tuple(fc.nat(2 ** 32 - 1), fc.integer({ min: 0, max: 32 })).map(([address, bits]) => {
      const size = 2 ** (32 - bits)
      const first = address - (address % size)
      return { text: `${dotted(first)}/${bits}`, first, last: first + size - 1 }
    })
    fc.assert(
      fc.property(range, range, (a, b) => {
        const canonical = (text: string) => (canonicalRange(text) as { range: string }).range
        assert.equal(contains(canonical(a.text), canonical(b.text)), a.first <= b.first && b.last <= a.last)
      }),
      { numRuns: 5_000 },
    )
  })
})

const dotted = (n: number) => [24, 16, 8, 0].map((shift) => Math.floor(n / 2 ** shift) % 256).join('.')
