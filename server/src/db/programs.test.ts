import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { StartupError } from '../lib/errors.ts'
import { installed } from './programs.ts'

const root = mkdtempSync(join(tmpdir(), 'cn-programs-'))
after(() => rmSync(root, { recursive: true }))

function install(name: string, output: string, programs = ['postgres', 'initdb']): string {
  const folder = join(root, name, 'bin')
  mkdirSync(folder, { recursive: true })
  for (const program of programs) {
    writeFileSync(join(folder, program), `#!/bin/sh\necho '${output}'\n`)
    chmodSync(join(folder, program), 0o755)
  }
  return folder
}

const fifteen = install('15', 'postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)')
const seventeen = install('17', 'postgres (PostgreSQL) 17.0')
install('14', 'postgres (PostgreSQL) 14.9')
install('client', 'postgres (PostgreSQL) 18.1', ['postgres'])
install('broken', 'cannot open shared object file')
const find = (major: number | null) => installed([join(root, '*/bin')], major)

test('chooses the newest server for a new data directory, and its own version for an old one', () => {
  assert.deepEqual(find(null), { folder: seventeen, major: 17 })
  assert.deepEqual(find(15), { folder: fifteen, major: 15 })
})

test('says what to install where there is none', () => {
  const message = (run: () => unknown) => {
    try {
      run()
    } catch (error) {
      assert.ok(error instanceof StartupError)
      return error.message
    }
    return ''
  }
  assert.match(
    message(() => find(16)),
    /^PostgreSQL 16, as in the data directory, is not installed/,
  )
  assert.match(
    message(() => find(14)),
    /^PostgreSQL 14/,
  )
  assert.match(
    message(() => installed([join(root, 'none/bin')], null)),
    /^PostgreSQL 15 or newer is not installed.*apt-get/,
  )
})
