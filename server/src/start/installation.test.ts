import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { StartupError } from '../lib/errors.ts'
import { identify } from '../lib/processes.ts'
import { seededRandom, systemRandom } from '../lib/random.ts'
import { openCredentials } from './credentials.ts'
import { openDataDir } from './data-dir.ts'
import { machineUid } from './host.ts'
import { freeBlock, openInstallation, parseInstallation, parseListeners } from './installation.ts'
import { lockDataDir, readHolder } from './lock.ts'
import { isRunDirOf } from './run-dir.ts'
import { openSecrets } from './secrets.ts'

const root = mkdtempSync(join(tmpdir(), 'cn-start-'))
after(() => rmSync(root, { recursive: true, force: true }))
let count = 0
function freshFolder(): string {
  return openDataDir(join(root, String(count++), 'data'))
}

describe('the data directory', () => {
  test('is created with its parents, closed to other users', () => {
    assert.equal(statSync(freshFolder()).mode & 0o066, 0)
  })

  test('is rejected when it has other files, cannot be created, or is a file', () => {
    const other = join(root, 'other')
    mkdirSync(other)
    writeFileSync(join(other, 'letter.txt'), 'text')
    writeFileSync(join(root, 'file'), '')
    for (const folder of [other, '/proc/none/here', join(root, 'file')]) {
      assert.throws(() => openDataDir(folder), StartupError)
    }
  })

  test('keeps its installation, secrets and keys', () => {
    const folder = freshFolder()
    const made = openInstallation(folder, systemRandom, new Date(0))
    assert.deepEqual(openInstallation(folder, systemRandom, new Date(1)), made)
    assert.deepEqual(openSecrets(folder, systemRandom), openSecrets(folder, systemRandom))
    const first = openCredentials(folder, 'http://a:1', systemRandom)
    const second = openCredentials(folder, 'http://b:2', systemRandom)
    assert.equal(second.live_key, first.live_key)
    assert.equal(second.api_url, 'http://b:2')
    assert.equal(openDataDir(folder), folder)
    for (const name of ['installation.json', 'secrets.json', 'credentials.json']) {
      assert.equal(statSync(join(folder, name)).mode & 0o777, 0o600)
    }
  })

  test('of a newer version or damaged is rejected in one line', () => {
    for (const text of ['{"format": 2}', '{}', 'nonsense', '{"format":"1"}']) {
      assert.throws(
        () => parseInstallation('installation.json', text),
        (error: Error) => {
          return error instanceof StartupError && !error.message.includes('\n')
        },
      )
    }
  })

  test('is locked by one control plane until that process ends, also by SIGKILL', async () => {
    const folder = freshFolder()
    const lock = JSON.stringify(join(import.meta.dirname, 'lock.ts'))
    const script = `const { lockDataDir } = await import(${lock})
      lockDataDir(${JSON.stringify(folder)}).announce('http://here'); console.log('locked'); setInterval(() => {}, 1000)`
    const other = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await new Promise((resolve) => other.stdout.once('data', resolve))
    assert.throws(() => lockDataDir(folder), new RegExp(`process ${other.pid}, http://here`))
    assert.equal(readHolder(folder)?.pid, other.pid)
    other.kill('SIGKILL')
    await new Promise((resolve) => other.once('exit', resolve))
    lockDataDir(folder)
    assert.equal(readHolder(folder)?.start_time, identify(process.pid)?.start_time)
  })
})

describe('the numbers of an installation', () => {
  test('its loopback block is the next free one in 127.64.0.0/10', () => {
    const taken = new Set<string>()
    for (let i = 0; i < 300; i++) {
      const block = freeBlock('abc', taken)
      assert.match(block, /^127\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.\d{1,3}\.0\/24$/)
      assert.ok(!taken.has(block))
      taken.add(block)
    }
  })

  test('listeners are parsed from /proc/net/tcp', () => {
    const table = `  sl  local_address rem_address   st tx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 05324 00000000:0000 0A
   2: 0532477F:0016 00000000:0000 0A 00000000:00000000
   3: 0532477F:0016 0100007F:9999 01 00000000:00000000
   4: 00000000:0016 00000000:0000 0A 00000000:00000000`
    assert.deepEqual(parseListeners(table), ['127.0.0.0/24', '127.71.50.0/24'])
  })

  test('ports and user IDs stay in their ranges', () => {
    const random = seededRandom(1)
    for (let i = 0; i < 50; i++) {
      const made = openInstallation(freshFolder(), random, new Date(0))
      assert.ok(made.multicast_port_base + 16_000 <= 65_535)
      assert.ok(made.first_machine_uid + 60_000 < 2 ** 31)
      assert.match(made.multicast_group, /^239\.\d+\.\d+\.1$/)
    }
  })

  test('machines have their own users only if root has those user IDs', () => {
    const uid = { first_machine_uid: 1_900_000_000 }
    assert.equal(machineUid(uid, true, '0 0 4294967295'), 1_900_000_000)
    assert.equal(machineUid(uid, false, '0 0 4294967295'), null)
    assert.equal(machineUid(uid, true, '0 100000 65536'), null)
  })
})

test('a run folder belongs to an installation only if its file says so and it is not a symbolic link', () => {
  const folder = join(root, 'run')
  mkdirSync(folder)
  assert.equal(isRunDirOf(folder, 'a'), false)
  writeFileSync(join(folder, 'installation.json'), '{"id":"a"}')
  assert.equal(isRunDirOf(folder, 'a'), true)
  assert.equal(isRunDirOf(folder, 'b'), false)
  symlinkSync(folder, join(root, 'link'))
  assert.equal(isRunDirOf(join(root, 'link'), 'a'), false)
  assert.ok(readFileSync(join(folder, 'installation.json')))
})
