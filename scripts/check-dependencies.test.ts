import assert from 'node:assert/strict'
import { test } from 'node:test'
import { advisoryFaults, licenceFaults } from './check-dependencies.ts'

const component = (...licenses: object[]) => ({ components: [{ name: 'x', version: '1.0.0', licenses }] })

test('refuses a package whose licence is missing or not in the list', () => {
  assert.deepEqual(licenceFaults(component({ license: { id: 'MIT' } })), [])
  assert.deepEqual(licenceFaults(component({ expression: '(GPL-3.0-only OR MIT)' })), [])
  assert.deepEqual(licenceFaults(component({ license: { id: 'GPL-3.0-only' } })), [
    'x 1.0.0 has the licence GPL-3.0-only',
  ])
  assert.equal(licenceFaults(component({ expression: 'MIT AND SSPL-1.0' })).length, 1)
  assert.deepEqual(licenceFaults({ components: [{ name: 'x', version: '1.0.0' }] }), ['x 1.0.0 has the licence none'])
})

test('refuses severe advisories, and says when the registry offers none', () => {
  const via = [{ title: 'remote code execution', url: 'https://example.com/1' }]
  assert.deepEqual(advisoryFaults({ vulnerabilities: { x: { severity: 'critical', via } } }), [
    'x has an advisory of severity critical: remote code execution (https://example.com/1)',
  ])
  assert.deepEqual(advisoryFaults({ vulnerabilities: { x: { severity: 'low', via } } }), [])
  assert.equal(advisoryFaults({ message: '405 Method Not Allowed' }), null)
})
