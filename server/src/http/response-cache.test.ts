import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../lib/clock.ts'
import { createResponseCache } from './response-cache.ts'

function setUp() {
  let now = 0
  let told: (id: string | null) => void = () => {}
  const notifier = { onChange: (listener: typeof told) => (told = listener) } as any
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
  return { cache, fill, told: (id: string | null) => told(id), pass: (ms: number) => (now += ms) }
}

test('an answer is kept for a second, and until its resource changes', async () => {
  const { cache, fill, told, pass } = setUp()
  const answer = await fill({ version: 3 })
  assert.deepEqual(answer, { etag: '"3"', text: '{"version":3}' })
  pass(999)
  assert.equal(cache.get('env_1', 'inst_1'), answer)
  pass(1)
  assert.equal(cache.get('env_1', 'inst_1'), null)
  await fill({ version: 4 })
  told('inst_2')
  assert.ok(cache.get('env_1', 'inst_1'))
  told('inst_1')
  assert.equal(cache.get('env_1', 'inst_1'), null)
})

test('after a gap in the notifications nothing is believed', async () => {
  const { cache, fill, told } = setUp()
  await fill({ version: 1 })
  told(null)
  assert.equal(cache.get('env_1', 'inst_1'), null)
})

test('an answer that was read while its resource changed is given, but not kept', async () => {
  const { cache, fill, told } = setUp()
  assert.ok(await fill({ version: 1 }, { meanwhile: () => told('inst_1') }))
  assert.equal(cache.get('env_1', 'inst_1'), null)
})

test('another environment never gets it', async () => {
  const { cache, fill } = setUp()
  await fill({ version: 1 })
  assert.equal(cache.get('env_2', 'inst_1'), null)
  assert.equal(await fill(null, { env: 'env_2' }), null)
  assert.equal(cache.get('env_2', 'inst_1'), null)
  assert.ok(cache.get('env_1', 'inst_1'), 'and does not push it out')
})

test('what is not there, or ends by itself, is not kept', async () => {
  const { cache, fill } = setUp()
  assert.equal(await fill(null), null)
  assert.ok(await fill({ version: 1 }, { keep: false }))
  assert.equal(cache.get('env_1', 'inst_1'), null)
})
