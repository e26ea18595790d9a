import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { createMetrics } from './metrics.ts'

describe('metrics', () => {
  test('renders the Prometheus text format', async () => {
    const metrics = createMetrics()
    metrics.counter('things_total', 'Things.\nMany.', { kind: 'a"b\\c\n' }).add(3)
    metrics.collect('level', 'gauge', 'Level.', () => [{ value: 0.5 }])
    assert.equal(
      await metrics.render(),
      [
        '# HELP things_total Things.\\nMany.',
        '# TYPE things_total counter',
        'things_total{kind="a\\"b\\\\c\\n"} 3',
        '# HELP level Level.',
        '# TYPE level gauge',
        'level 0.5',
        '',
      ].join('\n'),
    )
  })

  test('counts a value in every bucket whose bound is at least the value', () => {
    return fc.assert(
      fc.asyncProperty(fc.array(fc.double({ min: 0, max: 100, noNaN: true })), async (values) => {
        const metrics = createMetrics()
        const histogram = metrics.histogram('took_seconds', 'Took.', { route: '/' })
        for (const value of values) histogram.observe(value)
        const text = await metrics.render()
        const buckets = [...text.matchAll(/took_seconds_bucket\{route="\/",le="([^"]+)"\} (\d+)/g)]
        assert.equal(buckets.length, 16)
        for (const [, le, count] of buckets) {
          const bound = le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le)
          assert.equal(Number(count), values.filter((value) => value <= bound).length)
        }
        assert.match(text, new RegExp(`took_seconds_count\\{route="/"\\} ${values.length}\n`))
      }),
    )
  })

  test('returns the same series for the same labels, and one shared series beyond the maximum', async () => {
    const metrics = createMetrics()
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 2_100; i++) metrics.counter('n_total', 'N.', { i: String(i) }).add()
    }
    const lines = (await metrics.render()).split('\n').filter((line) => line.startsWith('n_total'))
    assert.equal(lines.length, 2_001)
    assert.ok(lines.includes('n_total{i="7"} 2') && lines.includes('n_total 200'))
  })

  test('omits a collector that fails and renders the others', async () => {
    const metrics = createMetrics()
    metrics.collect('broken', 'gauge', 'Broken.', async () => assert.fail())
    metrics.collect('whole', 'gauge', 'Whole.', async () => [{ labels: { a: 'b' }, value: 1 }])
    assert.match(await metrics.render(), /^whole\{a="b"\} 1$/m)
  })
})
