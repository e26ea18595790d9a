import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { clientAddressOf, parseAddress } from './client-address.ts'

test('reads an address with a port, a zone, brackets or quotes, and IPv4 that is mapped to IPv6', () => {
  for (const text of [
    '203.0.113.9',
    '203.0.113.9:51234',
    ' 203.0.113.9 ',
    '"203.0.113.9:1"',
    '::ffff:203.0.113.9',
    '[::ffff:203.0.113.9]:443',
  ]) {
    assert.equal(parseAddress(text), '203.0.113.9', text)
  }
  for (const text of [
    '2001:db8::5',
    '[2001:db8::5]',
    '[2001:db8::5]:443',
    '"[2001:DB8::5]:443"',
    '2001:db8::5%eth0',
    '[2001:db8::5%25eth0]:1',
  ]) {
    assert.equal(parseAddress(text), '2001:db8::5', text)
  }
  for (const text of [
    '',
    'unknown',
    '_hidden',
    '203.0.113',
    '203.0.113.9:',
    '203.0.113.9:123456',
    '[::1',
    '[::1]:x',
    'a:1',
  ]) {
    assert.equal(parseAddress(text), null, text)
  }
})

const PROXIES = ['10.0.0.0/8', '2001:db8:1::/48']

test('believes only trusted proxies, each for the entry before its own', () => {
  const of = (peer: string, list?: string) => clientAddressOf(peer, list, PROXIES)
  assert.equal(of('198.51.100.1', '203.0.113.9'), '198.51.100.1')
  assert.equal(of('10.0.0.1', '203.0.113.9:5'), '203.0.113.9')
  assert.equal(of('::ffff:10.0.0.1', '203.0.113.9, 198.51.100.1, 10.0.0.2:80'), '198.51.100.1')
  assert.equal(of('10.0.0.1', '203.0.113.9, [2001:db8:1::2]:443'), '203.0.113.9')
  assert.equal(of('10.0.0.1', '203.0.113.9, unknown'), '10.0.0.1')
  assert.equal(of('10.0.0.1'), '10.0.0.1')
  assert.equal(clientAddressOf('10.0.0.1', '203.0.113.9', []), '10.0.0.1')
  assert.equal(clientAddressOf(undefined, '203.0.113.9', PROXIES), null)
})

test('a client does not change its address by entries that it writes itself', () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.ipV4(), fc.ipV6(), fc.string())), (forged) => {
      const list = [...forged.map((each) => each.replaceAll(',', '')), '203.0.113.9'].join(', ')
      assert.equal(clientAddressOf('10.0.0.1', list, PROXIES), '203.0.113.9')
    }),
  )
})
