import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { TransientError } from '../driver.ts'
import { openScope, removeScope } from './scope.ts'

const MIB = 2 ** 20
const SIZE = { vcpus: 2, memory_bytes: 128 * MIB }
let root: string
beforeEach(async () => void (root = await mkdtemp(join(tmpdir(), 'scope-'))))
afterEach(() => rm(root, { recursive: true }))

const open = (isRoot = true) => openScope('abc', isRoot, { cgroups: root, systemd: join(root, 'systemd') })
const read = async (...parts: string[]) => (await readFile(join(root, ...parts), 'utf8')).trim()

test('with systemd each machine is a scope with limits, for root only', async () => {
  await mkdir(join(root, 'systemd'))
  const scope = await open()
  assert.equal(scope.limits, 'cgroup')
  const command = scope.command('inst_0123456789', 3, SIZE)
  assert.deepEqual(command.slice(0, 2), ['systemd-run', '--scope'])
  for (const word of [
    '--unit=cloudnexus-abc-inst_0123456789-3.scope',
    'TasksMax=130',
    `MemoryMax=${640 * MIB}`,
    'CPUWeight=200',
  ])
    assert.ok(command.includes(word), word)
  assert.equal((await open(false)).limits, 'none')
})

test('with cgroup v2 each machine is a cgroup with limits', async () => {
  await writeFile(join(root, 'cgroup.controllers'), 'cpu memory pids')
  const scope = await open(false)
  assert.equal(scope.limits, 'cgroup')
  assert.equal(await read('cgroup.subtree_control'), '+pids +memory +cpu')
  assert.equal(await read('cloudnexus-abc', 'cgroup.subtree_control'), '+pids +memory +cpu')
  await scope.prepare('m', SIZE)
  assert.equal(await read('cloudnexus-abc', 'm', 'pids.max'), '130')
  assert.equal(await read('cloudnexus-abc', 'm', 'memory.max'), `${640 * MIB}`)
  assert.equal(await read('cloudnexus-abc', 'm', 'cpu.weight'), '200')
  const { stdout } = enter(scope.command('m', 1, SIZE))
  assert.equal(
    await read('cloudnexus-abc', 'm', 'cgroup.procs'),
    stdout.trim(),
    'the process is in it before it is QEMU',
  )
})

test('without controllers in cgroup v2 there are no limits, and that is said', async () => {
  await writeFile(join(root, 'cgroup.controllers'), '')
  await mkdir(join(root, 'cgroup.subtree_control'))
  const scope = await open(false)
  assert.equal(scope.limits, 'none')
  assert.match(scope.reason, /without controllers/)
  await scope.prepare('m', SIZE)
  assert.equal(enter(scope.command('m', 1, SIZE)).status, 0)
})

test('with cgroup v1 each machine is a cgroup of three controllers', async () => {
  for (const controller of ['pids', 'memory', 'cpu']) await mkdir(join(root, controller))
  const scope = await open(false)
  assert.equal(scope.limits, 'cgroup')
  await scope.prepare('m', SIZE)
  assert.equal(await read('pids', 'cloudnexus-abc', 'm', 'pids.max'), '130')
  assert.equal(await read('memory', 'cloudnexus-abc', 'm', 'memory.limit_in_bytes'), `${640 * MIB}`)
  assert.equal(await read('cpu', 'cloudnexus-abc', 'm', 'cpu.shares'), '2048')
  const { stdout } = enter(scope.command('m', 1, SIZE))
  for (const controller of ['pids', 'memory', 'cpu'])
    assert.equal(await read(controller, 'cloudnexus-abc', 'm', 'cgroup.procs'), stdout.trim())
})

test('without systemd and cgroups a machine is a session without limits', async () => {
  const scope = await open()
  assert.equal(scope.limits, 'none')
  assert.deepEqual(scope.command('m', 1, SIZE), [])
  await scope.prepare('m', SIZE)
})

test('a limit that cannot be set prevents the start, and can be tried again', async () => {
  await writeFile(join(root, 'cgroup.controllers'), 'cpu memory pids')
  const scope = await open()
  await mkdir(join(root, 'cloudnexus-abc', 'm', 'memory.max'), { recursive: true })
  await assert.rejects(scope.prepare('m', SIZE), TransientError)
})

test('removes the cgroups of an installation, of both versions, and no other', async () => {
  // Folders alone: the files of a real cgroup do not keep it from being removed.
  for (const parent of ['.', 'pids', 'memory', 'cpu'])
    for (const id of ['abc', 'other']) await mkdir(join(root, parent, `cloudnexus-${id}`, 'm'), { recursive: true })
  await removeScope('abc', root)
  await removeScope('abc', root)
  for (const parent of ['.', 'pids', 'memory', 'cpu'])
    assert.deepEqual(
      (await readdir(join(root, parent))).filter((name) => name.startsWith('cloudnexus')),
      ['cloudnexus-other'],
    )
})

/** Runs the start of a command; the program prints its process ID. */
function enter(command: string[]) {
  const [program, ...args] = [...command, 'sh', '-c', 'echo $$']
  return spawnSync(program!, args, { encoding: 'utf8' })
}
