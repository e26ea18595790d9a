/** docs/security.md: every promise names a test that exists. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

const ROOT = join(import.meta.dirname, '..')

/** The rows of the tables of promises: what is promised, and the tests with their titles. */
function promises(): { promise: string; shown: string }[] {
  const text = readFileSync(join(ROOT, 'docs/security.md'), 'utf8')
  const tables = text.split(/^## /m).filter((section) => section.startsWith('Promises to'))
  return tables.flatMap((section) =>
    [...section.matchAll(/^\| (.+) \| (.+) \|$/gm)]
      .slice(2)
      .map(([, promise, shown]) => ({ promise: promise!, shown: shown! })),
  )
}

test('each promise is shown by a test that exists', () => {
  const all = promises()
  assert.ok(all.length > 15, `${all.length} promises`)
  for (const { promise, shown } of all) {
    const tests = [...shown.matchAll(/`([^`]+)`(?: "([^"]+)")?/g)]
    assert.ok(tests.length > 0, `no test shows: ${promise}`)
    for (const [, file, title] of tests) {
      const path = join(ROOT, file!)
      assert.ok(file!.endsWith('.test.ts') && existsSync(path), `${file} does not exist`)
      if (title) assert.ok(readFileSync(path, 'utf8').includes(title), `${file} has no test "${title}"`)
    }
  }
})
