import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type Budget, exceededLimit, type Limits, shortestTtl } from './limits.ts'

const limit = fc.option(fc.nat(5))
const limits: fc.Arbitrary<Limits> = fc.record({ max_instances: limit, max_vcpus: limit, ttl_seconds: limit })
const budget: fc.Arbitrary<Budget> = fc
  .tuple(limits, fc.nat(8), fc.nat(8))
  .map(([limits, used_instances, used_vcpus]) => ({ ...limits, used_instances, used_vcpus }))
const use = fc.record({ instances: fc.integer({ min: -1, max: 1 }), vcpus: fc.integer({ min: -4, max: 4 }) })

describe('limits of a budget', () => {
  test('there is room exactly when what rises stays within every budget of the chain', () => {
    fc.assert(
      fc.property(fc.array(budget, { maxLength: 3 }), use, (chain, wish) => {
        const fits = chain.every(
          (b) =>
            (wish.instances <= 0 || b.used_instances + wish.instances <= (b.max_instances ?? Infinity)) &&
            (wish.vcpus <= 0 || b.used_vcpus + wish.vcpus <= (b.max_vcpus ?? Infinity)),
        )
        assert.equal(exceededLimit(chain, wish) === null, fits)
      }),
    )
  })

  test('the shortest life counts', () => {
    const chain = [null, 600, 60, null].map((ttl_seconds) => ({ max_instances: null, max_vcpus: null, ttl_seconds }))
    assert.equal(shortestTtl(chain), 60)
    assert.equal(shortestTtl([]), null)
  })
})
