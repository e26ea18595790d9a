import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { contains } from '../../lib/ip.ts'
import { isAddressAllowed } from '../../lib/outbound.ts'
import { egressScript, NOT_PUBLIC_IPV4, NOT_PUBLIC_IPV6, removalScript, resolversIn } from './egress-rules.ts'

const policy = {
  installation_id: 'abc-1',
  first_uid: 1_900_000_000,
  multicast_group: '239.1.2.1',
  multicast_port_base: 20_000,
  refused_ports: [8080, 9464, 8080],
  resolvers: ['127.0.0.53', 'fd00::53'],
  allow: ['10.0.0.5', '10.1.2.3/16', '::ffff:192.0.2.0/120', 'fd00::1/64', '::ffff:10.0.0.9'],
}
const within = (ranges: string[], address: string) => ranges.some((range) => contains(range, address))

test('refuses exactly the addresses to which webhooks and images are not requested either', () => {
  const near = NOT_PUBLIC_IPV4.map((range) => range.split('/')[0]!).map(numberOf)
  const number = fc.oneof(
    fc.nat({ max: 0xffffffff }),
    fc.tuple(fc.constantFrom(...near), fc.integer({ min: -2, max: 70_000 })).map(([base, plus]) => (base + plus) >>> 0),
  )
  fc.assert(
    fc.property(number, (value) => {
      const address = [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.')
      assert.equal(within(NOT_PUBLIC_IPV4, address), !isAddressAllowed(address, []), address)
    }),
  )
})

test('does the same for IPv6', () => {
  const group = fc.nat({ max: 0xffff })
  const prefix = fc.constantFrom(
    '2001:db8',
    '2001:0',
    '2001:1ff',
    '2002:a',
    '3fff:fff',
    '2620:4f',
    'fd00:1',
    'fe80:1',
    '64:ff9b',
  )
  const start = fc.oneof(
    prefix,
    fc.tuple(group, group).map((pair) => pair.map((each) => each.toString(16)).join(':')),
  )
  fc.assert(
    fc.property(start, fc.array(group, { minLength: 6, maxLength: 6 }), (first, rest) => {
      const address = [first, ...rest.map((each) => each.toString(16))].join(':')
      // IPv4-mapped addresses are IPv4 to a socket; no packet has them.
      if (/^0:0:0:0:0:ffff:/.test(address)) return
      assert.equal(within(NOT_PUBLIC_IPV6, address), !isAddressAllowed(address, []), address)
    }),
  )
})

test('replaces its own table in one transaction', () => {
  const lines = egressScript(policy).split('\n')
  assert.deepEqual(lines.slice(0, 3), [
    'table inet cloudnexus_abc_1 {}',
    'delete table inet cloudnexus_abc_1',
    'table inet cloudnexus_abc_1 {',
  ])
  assert.equal(removalScript('abc-1'), lines.slice(0, 2).join('\n'))
})

test('acts on the users of the machines only', () => {
  assert.match(egressScript(policy), /^meta skuid 1900000000-1900059999 goto guests$/m)
})

test('allows what the operator and the host configure, by family and without host bits', () => {
  const script = egressScript(policy)
  const elements = (set: string) => new RegExp(`^set ${set} .*\n.*\n(?:elements = { (.*) };)?`, 'm').exec(script)?.[1]
  assert.equal(elements('allowed4'), '10.0.0.5, 10.1.0.0/16, 192.0.2.0/24, 10.0.0.9')
  assert.equal(elements('allowed6'), 'fd00::/64')
  assert.equal(elements('resolvers4'), '127.0.0.53')
  assert.equal(elements('resolvers6'), 'fd00::53')
})

test('refuses the ports of the control plane before it allows anything of the operator', () => {
  const script = egressScript(policy)
  const api = script.indexOf('tcp dport { 8080, 9464 } counter reject')
  assert.ok(api > 0 && api < script.indexOf('@allowed4 accept') && api < script.indexOf('@resolvers4 accept'))
  assert.doesNotMatch(egressScript({ ...policy, refused_ports: [] }), /tcp dport/)
})

test('finds the DNS servers of a resolv.conf', () => {
  const text =
    '# nameserver 9.9.9.9\n nameserver\t10.0.0.1 # a comment\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\nsearch x\nnameserver no\n'
  assert.deepEqual(resolversIn(text), ['10.0.0.1', 'fe80::1'])
  assert.deepEqual(resolversIn(''), [])
})

function numberOf(address: string): number {
  return address.split('.').reduce((sum, byte) => sum * 256 + Number(byte), 0)
}
