import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../lib/random.ts'
import { createSampler, FULL_RATE, strideOf } from './sampling.ts'

/** Samples `perSecond` reads in each second and returns what was recorded in each. */
function record(seed: number, perSecond: number, seconds: number): { rows: number; estimate: number }[] {
  const sampler = createSampler(seededRandom(seed))
  return Array.from({ length: seconds }, (_, second) => {
    const rates = Array.from({ length: perSecond }, (_, i) => sampler.rate(second * 1000 + (i * 1000) / perSecond))
    const recorded = rates.filter((rate) => rate > 0)
    return { rows: recorded.length, estimate: recorded.reduce((sum, rate) => sum + 1 / rate, 0) }
  })
}

describe('sampling of successful reads', () => {
  test('records all reads up to 1,000 per second', () => {
    for (const { rows, estimate } of record(1, FULL_RATE, 3)) assert.deepEqual([rows, estimate], [FULL_RATE, FULL_RATE])
  })

  test('records fewer above that, with weights that estimate the total', () => {
    const [first, ...rest] = record(2, 16_000, 41)
    // In the first second there is no previous rate: each further thousand is sampled at a lower rate.
    assert.ok(first!.rows < 3_000, `${first!.rows}`)
    for (const { rows } of rest) assert.ok(rows > 180 && rows < 330, `${rows}`)
    const estimate = rest.reduce((sum, second) => sum + second.estimate, 0)
    assert.ok(Math.abs(estimate / 640_000 - 1) < 0.04, `${estimate}`)
    const [, ...fewer] = record(3, 4_000, 11)
    for (const { rows } of fewer) assert.ok(rows > 400 && rows < 600, `${rows}`)
  })

  test('records all reads again after a quiet second', () => {
    const sampler = createSampler(seededRandom(3))
    for (let i = 0; i < 5_000; i++) sampler.rate(500)
    assert.equal(sampler.rate(2_500), 1)
  })

  test('the stride is at least one and increases with the rate of either second', () => {
    fc.assert(
      fc.property(fc.nat(1e6), fc.nat(1e6), (now, before) => {
        const stride = strideOf(now, before)
        assert.ok(stride >= 1 && stride * FULL_RATE >= Math.max(now, before))
        assert.ok(strideOf(now + 1000, before) >= stride && strideOf(now, before + 1000) >= stride)
      }),
    )
  })
})
