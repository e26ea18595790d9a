import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type FileHandle, mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../lib/clock.ts'
import { identify } from '../../lib/processes.ts'
import { AddressInUseError, CapacityError, TransientError } from '../driver.ts'
import { confine, isReachable, spawnDetached } from './launch.ts'
import { killProcess } from './process.ts'
import { startError } from './start.ts'

const none = { uid: null, groups: [], binds: [], scope: [], enter: [] }

test('returns the command unchanged without a confinement', () => {
  assert.deepEqual(confine(['qemu', '-x'], none), ['qemu', '-x'])
})

test('a separate user has one capability and cannot gain more', () => {
  const argv = confine(['qemu'], { ...none, uid: 70001, groups: [70099, 105] })
  assert.deepEqual(argv.slice(-1), ['qemu'])
  for (const word of ['--no-new-privs', '--bounding-set=-all,+net_bind_service', '--inh-caps=-all,+net_bind_service'])
    assert.ok(argv.includes(word))
  assert.equal(argv[argv.indexOf('--groups') + 1], '70099,105')
  assert.ok(confine(['qemu'], { ...none, uid: 70001 }).includes('--clear-groups'))
})

test('enters the namespace of the machines and gives up its capabilities there', () => {
  const argv = confine(['qemu'], { ...none, scope: ['systemd-run', '--'], enter: ['nsenter', '--'] })
  const order = ['systemd-run', 'nsenter', 'setpriv', 'qemu'].map((word) => argv.indexOf(word))
  assert.ok(order.every((at, index) => at >= 0 && at > (order[index - 1] ?? -1)))
  assert.ok(argv.includes('--bounding-set=-all') && argv.includes('--no-new-privs'))
})

test('nests scope, namespace and user in this order and passes paths as parameters', () => {
  const from = '/root/$(reboot)"\'; '
  const argv = confine(['qemu'], {
    uid: 7,
    groups: [],
    binds: [{ from, to: '/run/x' }],
    scope: ['systemd-run', '--'],
    enter: [],
  })
  const order = ['systemd-run', 'unshare', 'sh', 'setpriv', 'qemu'].map((word) => argv.indexOf(word))
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  )
  assert.equal(argv.filter((word) => word.includes('reboot')).length, 1)
  assert.ok(argv.includes(from))
})

test('a started program has its own session, an empty environment and a descriptor for its output', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'launch-'))
  let file: FileHandle | null = null
  try {
    const log = join(folder, 'log')
    file = await open(log, 'a')
    const { fd } = file
    const child = await spawnDetached(['sh', '-c', 'env; echo up; exec sleep 1000'], fd)
    for (let attempt = 0; !(await readFile(log, 'utf8')).includes('up\n'); attempt++) {
      assert.ok(attempt < 1000)
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
    await killProcess(identify(child.pid)!, 5000, systemClock)
    const [code] = await once(await spawnDetached(['/nonexistent/program'], fd), 'exit')
    assert.equal(code, 127)
    assert.match(await readFile(log, 'utf8'), /\/nonexistent\/program: not found/)
  } finally {
    await file?.close()
    await rm(folder, { recursive: true })
  }
})

test('a folder is accessible if all folders above it are', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'reach-'))
  try {
    await mkdir(join(folder, 'inner'), { mode: 0o755 })
    assert.equal(await isReachable(join(folder, 'inner')), false)
    assert.equal(await isReachable('/usr/bin'), true)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('the output of QEMU determines the class of the error', () => {
  assert.ok(startError("cannot set up guest memory 'pc.ram': Cannot allocate memory") instanceof CapacityError)
  assert.ok(startError("Could not set up host forwarding rule 'tcp:1.2.3.4:22-:22'") instanceof AddressInUseError)
  assert.ok(startError('') instanceof TransientError)
})
