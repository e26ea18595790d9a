import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../lib/clock.ts'
import { createResponseCache } from './response-cache.ts'

function setUp() {
  let now = 0
  let notify: (id: string | null) => void = () => {}
  const notifier = { onChange: (listener: typeof notify) => (notify = listener) } as any
  const cache = createResponseCache({ clock: { ...systemClock, monotonic: () => now }, notifier })
  const fill = (value: object | null, { env = 'env_1', id = 'inst_1', keep = true, meanwhile = () => {} } = {}) =>
    cache.fill(
      env,
      id,
      async () => {
        await Promise.resolve()
        meanwhile()
        return value
      },
      (row) => row,
      () => keep,
    )
  return { cache, fill, notify: (id: string | null) => notify(id), pass: (ms: number) => (now += ms) }
}

test('caches a response for one second, or until its resource changes', async () => {
  const { cache, fill, notify, pass } = setUp()
  const response = await fill({ version: 3 })
  assert.deepEqual(response, { etag: '"3"', text: '{"version":3}' })
  pass(999)
  assert.equal(cache.get('env_1', 'inst_1'), response)
  pass(1)
  assert.equal(cache.get('env_1', 'inst_1'), null)
  await fill({ version: 4 })
  notify('inst_2')
  assert.ok(cache.get('env_1', 'inst_1'))
  notify('inst_1')
  assert.equal(cache.get('env_1', 'inst_1'), null)
})

test('clears the cache after a gap in the notifications', async () => {
  const { cache, fill, notify } = setUp()
  await fill({ version: 1 })
  notify(null)
  assert.equal(cache.get('env_1', 'inst_1'), null)
})

test('returns, but does not cache, a response whose resource changed during the read', async () => {
  const { cache, fill, notify } = setUp()
  assert.ok(await fill({ version: 1 }, { meanwhile: () => notify('inst_1') }))
  assert.equal(cache.get('env_1', 'inst_1'), null)
})

test('never returns the entry of another environment', async () => {
  const { cache, fill } = setUp()
  await fill({ version: 1 })
  assert.equal(cache.get('env_2', 'inst_1'), null)
  assert.equal(await fill(null, { env: 'env_2' }), null)
  assert.equal(cache.get('env_2', 'inst_1'), null)
  assert.ok(cache.get('env_1', 'inst_1'), 'and does not evict it')
})

test('does not cache a missing resource, or one that changes without notification', async () => {
  const { cache, fill } = setUp()
  assert.equal(await fill(null), null)
  assert.ok(await fill({ version: 1 }, { keep: false }))
  assert.equal(cache.get('env_1', 'inst_1'), null)
})
