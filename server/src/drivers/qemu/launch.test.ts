import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../lib/clock.ts'
import { AddressInUseError, CapacityError, TransientError } from '../driver.ts'
import { confine, isReachable, spawnDetached } from './launch.ts'
import { identify, killProcess } from './process.ts'
import { startError } from './start.ts'

const none = { uid: null, group: null, binds: [], systemd_unit: null }

test('nothing to confine with: the command as it is', () => {
  assert.deepEqual(confine(['qemu', '-x'], none), ['qemu', '-x'])
})

test('a user of its own keeps one capability and no way to more', () => {
  const argv = confine(['qemu'], { ...none, uid: 70001, group: 105 })
  assert.deepEqual(argv.slice(-1), ['qemu'])
  for (const word of ['--no-new-privs', '--bounding-set=-all,+net_bind_service', '--inh-caps=-all,+net_bind_service'])
    assert.ok(argv.includes(word))
  assert.equal(argv[argv.indexOf('--groups') + 1], '105')
  assert.ok(confine(['qemu'], { ...none, uid: 70001 }).includes('--clear-groups'))
})

test('scope outside, namespace within, user innermost; paths are parameters, never shell text', () => {
  const from = '/root/$(reboot)"\'; '
  const argv = confine(['qemu'], { uid: 7, group: null, binds: [{ from, to: '/run/x' }], systemd_unit: 'a.scope' })
  const order = ['systemd-run', 'unshare', 'sh', 'setpriv', 'qemu'].map((word) => argv.indexOf(word))
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  )
  assert.equal(argv.filter((word) => word.includes('reboot')).length, 1)
  assert.ok(argv.includes(from))
})

test('a started program has a session of its own, an empty environment and files for its output', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'launch-'))
  try {
    const log = join(folder, 'log')
    const child = await spawnDetached(['sh', '-c', 'env; echo up; exec sleep 1000'], log)
    for (let looks = 0; !(await readFile(log, 'utf8')).includes('up\n'); looks++) {
      assert.ok(looks < 1000)
      await systemClock.sleep(10)
    }
    const session = Number((await readFile(`/proc/${child.pid}/stat`, 'utf8')).split(') ')[1]!.split(' ')[3])
    assert.equal(session, child.pid)
    const names = (await readFile(log, 'utf8')).split('\n').filter((line) => line.includes('='))
    assert.deepEqual(
      names
        .map((line) => line.split('=')[0])
        .filter((name) => !['PWD', '_', 'SHLVL', 'OLDPWD'].includes(name!))
        .sort(),
      ['LANG', 'PATH'],
    )
    await killProcess((await identify(child.pid))!, 5000, systemClock)
    await assert.rejects(spawnDetached(['/nonexistent/program'], log), TransientError)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a folder is reachable when every folder above it is', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'reach-'))
  try {
    await mkdir(join(folder, 'inner'), { mode: 0o755 })
    assert.equal(await isReachable(join(folder, 'inner')), false)
    assert.equal(await isReachable('/usr/bin'), true)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('the last words of QEMU tell what kind of failure it was', () => {
  assert.ok(startError("cannot set up guest memory 'pc.ram': Cannot allocate memory") instanceof CapacityError)
  assert.ok(startError("Could not set up host forwarding rule 'tcp:1.2.3.4:22-:22'") instanceof AddressInUseError)
  assert.ok(startError('') instanceof TransientError)
})
