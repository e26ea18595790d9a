import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StartupError } from '../lib/errors.ts'
import { checkPrograms, findProgram } from './programs.ts'

test('a host without QEMU is told in one line what to install', () => {
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

test('a program is found where the path has it', () => {
  assert.equal(findProgram('sh', '/nonexistent:/bin'), '/bin/sh')
  assert.equal(findProgram('no-such-program', '/bin'), null)
})
