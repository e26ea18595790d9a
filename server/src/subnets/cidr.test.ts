import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import ipaddr from 'ipaddr.js'
import { cidrError } from './cidr.ts'

const codeOf = (text: string) => cidrError(text)?.code ?? null

test('accepts private ranges from /16 to /28 that begin at their first IP address', () => {
  for (const text of ['10.0.0.0/16', '10.255.255.240/28', '172.16.0.0/16', '172.31.0.0/24', '192.168.0.0/16']) {
    assert.equal(codeOf(text), null, text)
  }
})

test('returns the error of an invalid range', () => {
  const cases: [string, string | null][] = [
    ['', 'invalid'],
    ['10.0.0.0', 'invalid'],
    ['10.0.0/24', 'invalid'],
    ['10.0.0.0/24/24', 'invalid'],
    ['10.0.0.256/24', 'invalid'],
    ['010.0.0.0/24', 'invalid'],
    ['10.0.0.0/24 ', 'invalid'],
    ['0x0a.0.0.0/24', 'invalid'],
    ['fd00::/64', 'invalid'],
    ['8.8.8.0/24', 'not_private'],
    ['172.32.0.0/16', 'not_private'],
    ['192.169.0.0/24', 'not_private'],
    ['192.168.0.0/15', 'not_private'],
    ['127.0.0.0/24', 'not_private'],
    ['10.0.0.0/15', 'invalid_size'],
    ['10.0.0.0/29', 'invalid_size'],
    ['10.0.0.0/99', 'invalid_size'],
    ['10.0.0.1/24', 'not_canonical'],
  ]
  for (const [text, code] of cases) assert.equal(codeOf(text), code, text)
  assert.match(cidrError('10.1.2.3/20')!.message, /10\.1\.0\.0\/20/)
})

test('agrees with ipaddr.js on any range, and suggests a valid one', () => {
  const octet = fc.nat(255)
  const address = fc.tuple(fc.constantFrom(10, 172, 192), octet, octet, octet)
  fc.assert(
    fc.property(address, fc.integer({ min: 16, max: 28 }), (octets, prefix) => {
      const text = `${octets.join('.')}/${prefix}`
      const isPrivate = ipaddr.parse(octets.join('.')).range() === 'private'
      const network = `${ipaddr.IPv4.networkAddressFromCIDR(text)}/${prefix}`
      const expected = !isPrivate ? 'not_private' : network === text ? null : 'not_canonical'
      assert.equal(codeOf(text), expected, text)
      if (isPrivate) assert.equal(codeOf(network), null)
    }),
  )
})
