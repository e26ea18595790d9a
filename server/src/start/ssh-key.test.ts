import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemRandom } from '../lib/random.ts'
import { parsePublicKey } from '../ssh-keys/public-key.ts'
import { openSshKey } from './ssh-key.ts'

test('creates a key pair that OpenSSH can read, once', () => {
  const folder = mkdtempSync(join(tmpdir(), 'cn-ssh-'))
  try {
    const { private_key_file, public_key } = openSshKey(folder, systemRandom)
    assert.equal(statSync(private_key_file).mode & 0o777, 0o600)
    assert.equal(execFileSync('ssh-keygen', ['-y', '-f', private_key_file], { encoding: 'utf8' }).trim(), public_key)
    assert.ok('fingerprint' in parsePublicKey(public_key))
    assert.equal(openSshKey(folder, systemRandom).public_key, public_key)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
