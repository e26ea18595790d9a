import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createManualClock } from '../testing/manual-clock.ts'
import { clientOf, createAddressLimit, createAttempts } from './address.ts'

const policy = { rate_per_second: 20 / 60, burst: 20 }
const setup = () => {
  const clock = createManualClock()
  const limit = createAddressLimit('unauthenticated', policy, clock)
  return { clock, limit, attempt: createAttempts<{ key_id: string }>(limit) }
}
const isRefusal = (result: unknown) => result !== null && typeof result === 'object' && 'allowed' in result

describe('invalid keys', () => {
  test('looks up twenty, sequentially or concurrently, then one every three seconds', async () => {
    for (const parallel of [true, false]) {
      const { clock, attempt } = setup()
      let queries = 0
      const find = async () => {
        queries++
        await Promise.resolve()
        return null
      }
      const results = []
      if (parallel)
        results.push(...(await Promise.all(Array.from({ length: 500 }, (_, i) => attempt('a', `k${i}`, find)))))
      else for (let i = 0; i < 500; i++) results.push(await attempt('a', `k${i}`, find))
      assert.equal(queries, 20)
      assert.equal(results.filter(isRefusal).length, 480)
      assert.equal(await attempt('b', 'k', find), null)
      clock.advance(3_000)
      assert.equal(await attempt('a', 'next', find), null)
      assert.ok(isRefusal(await attempt('a', 'after', find)))
    }
  })

  test('never limits a valid key, neither concurrently nor behind an IP address over its limit', async () => {
    const { attempt } = setup()
    const principal = (key: string) => Promise.resolve({ key_id: key })
    const many = await Promise.all(Array.from({ length: 300 }, (_, i) => attempt('a', `good${i}`, principal)))
    assert.ok(many.every((result) => !isRefusal(result)))
    for (let i = 0; i < 25; i++) await attempt('a', `bad${i}`, async () => null)
    assert.deepEqual(await attempt('a', 'good7', principal), { key_id: 'good7' })
    assert.ok(isRefusal(await attempt('a', 'unseen', principal)))
  })

  test('concurrent requests with the same key are one attempt, and a failed lookup refunds it', async () => {
    const { attempt } = setup()
    let queries = 0
    const slow = () => new Promise<null>((resolve) => void (queries++, setImmediate(resolve, null)))
    await Promise.all(Array.from({ length: 100 }, () => attempt('a', 'same', slow)))
    assert.equal(queries, 1)
    for (let i = 0; i < 50; i++) await assert.rejects(attempt('a', `k${i}`, () => Promise.reject(new Error('away'))))
    assert.equal(await attempt('a', 'k', async () => null), null)
  })
})

test('an IPv6 /64 is one client, and so is an IPv4 address in any notation', () => {
  assert.equal(clientOf('::ffff:192.0.2.1'), '192.0.2.1')
  assert.equal(clientOf('192.0.2.1'), '192.0.2.1')
  assert.equal(clientOf('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2')
  assert.equal(clientOf('2001:db8:1:2::9'), '2001:db8:1:2')
  assert.equal(clientOf('2001:db8::9'), '2001:db8:0:0')
  assert.equal(clientOf('fe80::1%eth0'), 'fe80:0:0:0')
  assert.equal(clientOf('::1'), '0:0:0:0')
})
