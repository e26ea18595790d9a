import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../../lib/clock.ts'
import { identify, isAlive, type ProcessIdentity, parseStat } from '../../lib/processes.ts'
import { findByPidFile, findMachineProcesses, folderOf, killProcess, waitForEnd } from './process.ts'

/** A process that runs until it is killed, with a command line like that of a machine. */
function sleeper(folder: string) {
  const code = 'setInterval(() => {}, 1e6); console.log("up")'
  return spawn(process.execPath, ['-e', code, '--', '-name', `guest=${folder}`], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
}

test('a process is identified by its start time and boot ID, not only by its process ID', async () => {
  const child = sleeper('/x')
  await once(child.stdout, 'data')
  const identity = identify(child.pid!)
  assert.ok(identity && isAlive(identity))
  for (const other of [{ start_time: identity.start_time + 1 }, { boot_id: 'another boot' }]) {
    const otherProcess: ProcessIdentity = { ...identity, ...other }
    assert.equal(isAlive(otherProcess), false)
    assert.equal(await killProcess(otherProcess, 1000, systemClock), true)
    assert.ok(isAlive(identity), 'another process with the same ID is not killed')
  }
  assert.equal(await waitForEnd(identity, 1, systemClock), false)
  assert.equal(await killProcess(identity, 5000, systemClock), true)
  assert.equal(isAlive(identity), false)
  assert.equal(await killProcess(identity, 5000, systemClock), true)
})

test('a zombie counts as ended', async () => {
  // The shell starts a child, prints its ID and becomes a program that never waits for it.
  const parent = spawn('sh', ['-c', 'sleep 1000 & echo $!; exec sleep 1000'], { stdio: ['ignore', 'pipe', 'ignore'] })
  const pid = Number(String((await once(parent.stdout, 'data'))[0]))
  try {
    const hasBecomeSleep = async () => (await readFile(`/proc/${parent.pid}/comm`, 'utf8')) === 'sleep\n'
    for (let attempt = 0; !(await hasBecomeSleep()); attempt++) {
      assert.ok(attempt < 1000)
      await systemClock.sleep(10)
    }
    assert.ok(identify(pid))
    process.kill(pid, 'SIGKILL')
    for (let attempt = 0; identify(pid) !== null; attempt++) {
      assert.ok(attempt < 1000)
      await systemClock.sleep(10)
    }
    process.kill(pid, 0) // Throws unless the process exists.
  } finally {
    parent.kill('SIGKILL')
  }
})

test('finds machines by PID file or command line, and no other process', async () => {
  const root = await mkdtemp(join(tmpdir(), 'processes-'))
  const folder = join(root, 'inst_0123456789')
  const child = sleeper(folder)
  try {
    await once(child.stdout, 'data')
    const found = await findMachineProcesses(root)
    assert.deepEqual(
      found.map((each) => [each.folder, each.process.pid]),
      [[folder, child.pid]],
    )
    assert.deepEqual(await findMachineProcesses(join(root, 'inst')), [])
    const file = join(root, 'pid')
    assert.equal(await findByPidFile(file, folder), null)
    for (const text of ['', 'garbage', '-1', '0', '1', `${process.pid}`, '99999999999']) {
      await writeFile(file, text)
      assert.equal(await findByPidFile(file, folder), null, text)
    }
    await writeFile(file, `${child.pid}\n`)
    assert.equal((await findByPidFile(file, folder))?.pid, child.pid)
    assert.equal(await findByPidFile(file, `${folder}x`), null)
  } finally {
    child.kill('SIGKILL')
    await rm(root, { recursive: true })
  }
})

test('parses the status of a process with any command name', () => {
  const rest = `S ${Array.from({ length: 18 }, (_, index) => index).join(' ')} 4711 0 0`
  fc.assert(
    fc.property(fc.string(), (name) => {
      assert.deepEqual(parseStat(`12 (${name}) ${rest}`), { state: 'S', start_time: 4711 })
    }),
  )
  for (const text of ['', '12 (x', '12 (x) S 1 2']) assert.equal(parseStat(text), null)
})

test('only the command line of a machine contains a folder', () => {
  assert.equal(folderOf(['qemu', '-name', 'guest=/a,,b/c']), '/a,b/c')
  for (const argv of [[], ['-name'], ['-name', 'x'], ['guest=/a'], ['-name', 'guest=a']])
    assert.equal(folderOf(argv), null)
})

const hasPython = spawnSync('python3', ['--version']).status === 0
const zombieTitle = 'a zombie whose thread is still alive has not ended, because the thread holds its files'
test(`${zombieTitle}${hasPython ? '' : ' (skipped: python3 is not installed)'}`, { skip: !hasPython }, async () => {
  const code =
    'import ctypes, sys, threading; threading.Thread(target=sys.stdin.read).start(); ctypes.CDLL(None).pthread_exit(None)'
  const child = spawn('python3', ['-c', code], { stdio: ['pipe', 'ignore', 'ignore'] })
  try {
    const state = async () => parseStat(await readFile(`/proc/${child.pid}/stat`, 'utf8'))?.state
    for (let attempt = 0; (await state()) !== 'Z'; attempt++) {
      assert.ok(attempt < 1000, 'the main thread ends')
      await systemClock.sleep(10)
    }
    const identity = identify(child.pid!)
    assert.ok(identity && isAlive(identity))
    child.stdin.end()
    assert.equal(await waitForEnd(identity, 5000, systemClock), true)
  } finally {
    child.kill('SIGKILL')
  }
})
