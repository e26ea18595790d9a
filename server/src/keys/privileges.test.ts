/** Privileges are a partial order that matches what keys can do. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Limits } from '../budgets/limits.ts'
import { isAllowedFrom } from '../lib/ip.ts'
import { exceeding, type Privileges, withinBudget } from './privileges.ts'
import { SCOPES } from './scopes.ts'

const ranges = ['10.0.0.0/8', '10.1.0.0/16', '10.1.2.0/24', '10.1.2.3', '0.0.0.0/0', '2001:db8::/32', '2001:db8::1']
const addresses = ['10.1.2.3', '10.1.2.4', '10.1.9.9', '10.9.9.9', '11.0.0.1', '2001:db8::1', '2001:db8::2', '::1']
const lineages = [[], ['a'], ['a', 'b'], ['a', 'b', 'c'], ['a', 'd'], ['e']]
const privileges: fc.Arbitrary<Privileges> = fc.record({
  scopes: fc.subarray(SCOPES.slice(0, 5)),
  expires_at: fc.option(fc.constantFrom(1, 2, 3).map((day) => new Date(day * 86_400_000))),
  allowed_addresses: fc.option(fc.subarray(ranges, { minLength: 1 })),
  budgets: fc.constantFrom(...lineages),
})
const limit = fc.option(fc.nat(5))
const limits: fc.Arbitrary<Limits> = fc.record({ max_instances: limit, max_vcpus: limit, ttl_seconds: limit })
const isWithin = (caller: Privileges, other: Privileges) => exceeding(caller, other).length === 0

describe('privileges', () => {
  test('a key within another can do only what the other can do', () => {
    fc.assert(
      fc.property(privileges, privileges, fc.constantFrom(1, 2, 3, 4), (caller, other, day) => {
        const now = new Date(day * 86_400_000 - 1)
        const can = (key: Privileges, scope: string, address: string) =>
          (key.scopes as readonly string[]).includes(scope) &&
          (key.expires_at === null || key.expires_at > now) &&
          isAllowedFrom(key.allowed_addresses, address)
        if (!isWithin(caller, other)) return
        for (const scope of SCOPES) {
          for (const address of addresses) if (can(other, scope, address)) assert.ok(can(caller, scope, address))
        }
        // Every budget of the caller also applies to the other.
        for (const id of caller.budgets) assert.ok(other.budgets.includes(id))
      }),
      { numRuns: 5_000 },
    )
  })

  test('are reflexive and transitive', () => {
    fc.assert(
      fc.property(privileges, privileges, privileges, (a, b, c) => {
        assert.ok(isWithin(a, a))
        if (isWithin(a, b) && isWithin(b, c)) assert.ok(isWithin(a, c))
      }),
      { numRuns: 5_000 },
    )
  })

  test('report each field that exceeds the caller, alone and together', () => {
    const caller: Privileges = {
      scopes: ['keys:write', 'instances:read'],
      expires_at: new Date(2),
      allowed_addresses: ['10.0.0.0/8'],
      budgets: ['a', 'b'],
    }
    const more: [string, Partial<Privileges>][] = [
      ['scopes 1', { scopes: ['keys:write', 'admin'] }],
      ['expires_at', { expires_at: null }],
      ['expires_at', { expires_at: new Date(3) }],
      ['allowed_addresses', { allowed_addresses: null }],
      ['allowed_addresses 1', { allowed_addresses: ['10.1.0.0/16', '0.0.0.0/0'] }],
      ['budget', { budgets: [] }],
      ['budget', { budgets: ['a'] }],
      ['budget', { budgets: ['a', 'c'] }],
    ]
    for (const [where, change] of more) {
      const found = exceeding(caller, { ...caller, ...change })
      assert.deepEqual(
        found.map(({ field, index }) => (index === undefined ? field : `${field} ${index}`)),
        [where],
      )
    }
    const all: Privileges = { scopes: SCOPES, expires_at: null, allowed_addresses: null, budgets: [] }
    assert.equal(new Set(exceeding(caller, all).map(({ field }) => field)).size, 4)
    assert.deepEqual(exceeding(all, caller), [])
  })

  test('a budget inside another reports every limit that exceeds the outer one', () => {
    fc.assert(
      fc.property(fc.option(limits), fc.oneof(limits, fc.constant({})), (outerLimits, requested) => {
        const { limits, exceeded } = withinBudget(outerLimits, requested)
        for (const field of ['max_instances', 'max_vcpus', 'ttl_seconds'] as const) {
          const outer = outerLimits?.[field] ?? Infinity
          const exceedsOuter = (limits[field] ?? Infinity) > outer
          assert.equal(
            exceeded.some((each) => each.field === field),
            exceedsOuter,
          )
          assert.equal(limits[field], (requested as Partial<Limits>)[field] ?? outerLimits?.[field] ?? null)
        }
      }),
    )
  })
})
