import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rangesFor } from './tenant-ranges.ts'

test('other projects than that of the operator get no range with a loopback address', () => {
  const ranges = ['127.0.0.0/8', '127.9.0.1', '0.0.0.0/0', '::1', '::/0', '10.0.0.0/8', '126.0.0.0/8', '2001:db8::/32']
  const strict = { allow_tenant_loopback: false }
  assert.deepEqual(rangesFor(strict, ranges, false), ['10.0.0.0/8', '126.0.0.0/8', '2001:db8::/32'])
  assert.equal(rangesFor(strict, ranges, true), ranges)
  assert.equal(rangesFor({ allow_tenant_loopback: true }, ranges, false), ranges)
})
