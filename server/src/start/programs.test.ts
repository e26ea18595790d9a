import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StartupError } from '../lib/errors.ts'
import { checkPrograms, findProgram } from './programs.ts'

test('reports missing programs in one line with the packages to install', () => {
  assert.throws(
    () => checkPrograms('/nonexistent'),
    (error: Error) => {
      assert.ok(error instanceof StartupError)
      assert.match(error.message, /^Missing on this host: qemu-system-x86_64, .*apt-get install -y qemu-system-x86 /)
      assert.ok(!error.message.includes('\n'))
      return true
    },
  )
})

test('finds a program in the path', () => {
  assert.equal(findProgram('sh', '/nonexistent:/bin'), '/bin/sh')
  assert.equal(findProgram('no-such-program', '/bin'), null)
})
