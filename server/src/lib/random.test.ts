import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom, systemRandom } from './random.ts'

test('returns uniform integers for every maximum', () => {
  for (const max of [1, 2, 36, 62, 200, 256, 257, 10_000]) {
    const draws = 200 * Math.min(max, 300)
    const counts = new Map<number, number>()
    for (let i = 0; i < draws; i++) {
      const value = systemRandom.integer(max)
      assert.ok(Number.isInteger(value) && value >= 0 && value < max, `${value} of ${max}`)
      const bin = max > 300 ? Math.floor((value * 300) / max) : value
      counts.set(bin, (counts.get(bin) ?? 0) + 1)
    }
    // Chi-squared against the mean of 200 a bin: six standard deviations, beyond which one in a billion falls.
    const bins = Math.min(max, 300)
    const chi = Array.from({ length: bins }, (_, bin) => ((counts.get(bin) ?? 0) - 200) ** 2 / 200)
    const sum = chi.reduce((total, each) => total + each, 0)
    assert.ok(sum < bins + 6 * Math.sqrt(2 * bins) + 10, `${max}: ${sum} for ${bins}`)
  }
})

test('returns the same sequence for the same seed', () => {
  const draw = (seed: number) => {
    const random = seededRandom(seed)
    return Array.from({ length: 20 }, () => random.integer(1_000))
  }
  assert.deepEqual(draw(7), draw(7))
  assert.notDeepEqual(draw(7), draw(8))
})
