import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import {
  bootsGuests,
  endToEndTests,
  LONG_END_TO_END_TESTS,
  LONG_UNIT_TESTS,
  soakTests,
  unitTests,
} from './test-files.ts'

const root = join(import.meta.dirname, '..')

describe('the lists of test files', () => {
  test('every listed file exists and is listed once', () => {
    const listed = [...LONG_UNIT_TESTS, ...LONG_END_TO_END_TESTS]
    assert.deepEqual(
      listed.filter((file) => !existsSync(join(root, file))),
      [],
    )
    assert.equal(new Set(listed).size, listed.length)
  })

  test('a unit test that boots guests is not quick', () => {
    assert.deepEqual(unitTests({ quick: true }).filter(bootsGuests), [])
    assert.ok(bootsGuests('server/src/drivers/qemu/driver.test.ts'), 'the imports are not found')
  })

  test('every test file belongs to one stage, the long ones first', () => {
    const all = [...unitTests(), ...endToEndTests(), ...soakTests()]
    assert.equal(new Set(all).size, all.length)
    assert.deepEqual(unitTests().slice(LONG_UNIT_TESTS.length), unitTests({ quick: true }))
    assert.ok(unitTests().includes('scripts/test-files.test.ts'))
    assert.ok(soakTests().length > 0)
  })
})
