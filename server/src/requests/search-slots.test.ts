import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ApiError } from '../lib/errors.ts'
import { createSearchSlots } from './search-slots.ts'

test('a hundred searches of one project leave a slot for another, and those beyond the queue are refused', async () => {
  const search = createSearchSlots()
  const ends: (() => void)[] = []
  let running = 0
  const slow = () =>
    new Promise<void>((resolve) => {
      running++
      ends.push(resolve)
    })
  let refused = 0
  const all = Array.from({ length: 100 }, () =>
    search('a', slow).catch((error) => {
      assert.ok(error instanceof ApiError && error.code === 'rate_limited' && error.headers['retry-after'] === '1')
      refused++
    }),
  )
  await new Promise(setImmediate)
  assert.equal(running, 2)
  assert.equal(await search('b', async () => 'found'), 'found')
  for (let i = 0; i < 22; i++) {
    ends.shift()!()
    await new Promise(setImmediate)
  }
  await Promise.all(all)
  assert.deepEqual([running, refused], [22, 78])
})
