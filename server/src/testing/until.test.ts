import assert from 'node:assert/strict'
import { test } from 'node:test'
import { until } from './until.ts'

test('resolves once the condition holds', async () => {
  let evaluations = 0
  await until('three', async () => ++evaluations === 3, 10, 1)
  assert.equal(evaluations, 3)
})

test('rejects after the timeout with what was expected', async () => {
  await assert.rejects(
    until('never', () => false, 0.01, 1),
    { message: 'timeout after 0.01 s: never' },
  )
})

test('rejects with the error of the condition', async () => {
  const broken = until('broken', () => Promise.reject(new RangeError('broken')))
  await assert.rejects(broken, RangeError)
})
