import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { StartupError } from '../lib/errors.ts'
import { systemRandom } from '../lib/random.ts'
import { openSecrets } from './secrets.ts'

const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-secrets-'))
const file = join(folder, 'secrets.json')
after(() => rmSync(folder, { recursive: true }))
const hex = (secrets: object) =>
  Object.entries(secrets).map(([name, bytes]) => [name, Buffer.from(bytes).toString('hex')])

test('creates secrets once, readable only by their owner', () => {
  const first = openSecrets(folder, systemRandom)
  assert.deepEqual(hex(openSecrets(folder, systemRandom)), hex(first))
  assert.equal(statSync(file).mode & 0o777, 0o600)
  assert.equal(new Set(hex(first).map(([, value]) => value)).size, 4)
})

test('keeps the secrets of an older release and adds new ones', () => {
  const before = JSON.parse(readFileSync(file, 'utf8'))
  const { database_key, ...older } = before
  writeFileSync(file, JSON.stringify(older))
  openSecrets(folder, systemRandom)
  const { database_key: made, ...kept } = JSON.parse(readFileSync(file, 'utf8'))
  assert.deepEqual(kept, older)
  assert.notEqual(made, database_key)
})

test('rejects a damaged file and does not change it', () => {
  const { pepper, ...without } = JSON.parse(readFileSync(file, 'utf8'))
  for (const text of [
    JSON.stringify(without),
    JSON.stringify({ ...without, pepper: pepper.slice(4) }),
    '{',
    '[]',
    'null',
  ]) {
    writeFileSync(file, text)
    assert.throws(() => openSecrets(folder, systemRandom), StartupError)
    assert.equal(readFileSync(file, 'utf8'), text)
  }
})
