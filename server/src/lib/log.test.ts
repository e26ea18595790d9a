import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import fc from 'fast-check'
import { createLog } from './log.ts'

/** What a log wrote. */
function capture(pretty: boolean, level = 'info') {
  const written: string[] = []
  const destination = new Writable({
    write(chunk, _encoding, done) {
      written.push(String(chunk))
      done()
    },
  })
  return { log: createLog({ level, pretty, destination }), text: () => written.join('') }
}
const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom('\u001b[2J', 'a\r\nb', '\u009b31m', '\u0085', '\u2028', '\u007f', '{"level":60}\n{', '\ud800'),
)

test('writes a record as one line of JSON without control characters', () => {
  fc.assert(
    fc.property(anyText, anyText, (value, message) => {
      const { log, text } = capture(false)
      log.info({ value, nested: { value } }, message.replaceAll('%', ''))
      assert.ok(text().endsWith('\n'))
      const line = text().slice(0, -1)
      assert.doesNotMatch(line, /[\p{Cc}\u2028\u2029]/u)
      const read = JSON.parse(line)
      assert.deepEqual(
        [read.value, read.nested.value],
        [value.toWellFormed?.() === value ? value : read.value, read.value],
      )
    }),
  )
})

test('escapes terminal control sequences in the text of a record', () => {
  fc.assert(
    fc.property(anyText, (value) => {
      const { log, text } = capture(true)
      log.error({ value, error: value }, 'failed')
      // The printer's own colours, and the ends of its own lines.
      const rest = text()
        .replace(/\p{Cc}\[\d+m/gu, '')
        .replaceAll('\n', '')
      const lines = text().trimEnd().split('\n')
      assert.doesNotMatch(rest, /[\p{Cc}\u2028\u2029]/u)
      assert.equal(lines.length, 3, text())
    }),
  )
})

test('redacts keys and user data', () => {
  const { log, text } = capture(false)
  log.warn({ authorization: 'Bearer secret', headers: { authorization: 'secret' }, body: { user_data: 'secret' } }, 'x')
  assert.doesNotMatch(text(), /secret/)
})

test('a full disk under the log does not end the process', () => {
  const script = `
    import { createLog } from '${new URL('./log.ts', import.meta.url)}'
    const log = createLog({ level: 'info', pretty: false })
    for (let i = 0; i < 100; i++) log.info({ i }, 'x'.repeat(100_000))
    setTimeout(() => process.stdout.write('alive'), 50)`
  const full = openSync('/dev/full', 'w')
  try {
    const args = ['--input-type=module', '-e', script]
    const { status, stdout } = spawnSync(process.execPath, args, {
      stdio: ['ignore', 'pipe', full],
      encoding: 'utf8',
      timeout: 20_000,
    })
    assert.deepEqual([status, stdout], [0, 'alive'])
  } finally {
    closeSync(full)
  }
})
