import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createManualClock } from '../testing/manual-clock.ts'
import { clientOf, createAddressLimit } from './address.ts'

test('counts each failure of a client, and forgets them at the rate of the policy', () => {
  const clock = createManualClock()
  const limit = createAddressLimit('failed_authentication', { rate_per_second: 20 / 60, burst: 20 }, clock)
  const allowed = (client: string) =>
    Array.from({ length: 25 }, () => limit.take(client).allowed).filter(Boolean).length
  assert.deepEqual([allowed('a'), allowed('a'), allowed('b')], [20, 0, 20])
  clock.advance(3_000)
  assert.equal(allowed('a'), 1)
})

test('an IPv6 /64 is one client, and so is an IPv4 address in any notation', () => {
  assert.equal(clientOf('::ffff:192.0.2.1'), '192.0.2.1')
  assert.equal(clientOf('192.0.2.1'), '192.0.2.1')
  assert.equal(clientOf('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2')
  assert.equal(clientOf('2001:db8:1:2::9'), '2001:db8:1:2')
  assert.equal(clientOf('2001:db8::9'), '2001:db8:0:0')
  assert.equal(clientOf('fe80::1%eth0'), 'fe80:0:0:0')
  assert.equal(clientOf('::1'), '0:0:0:0')
  assert.equal(clientOf(null), 'unknown')
})
