/** The probe reports a second process of an instance, and nothing else. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { after, afterEach, beforeEach, test } from 'node:test'
import { until } from '../server/src/testing/until.ts'
import { type MachineProbe, probeMachines } from './one-machine-per-disk.ts'

const DATA_DIR = `/nowhere/${process.pid}/data`
const folderOf = (id: string) => `${DATA_DIR}/instances/inst_${id.repeat(10)}`
const ROUNDS = 20

let probe: MachineProbe
const started: ChildProcess[] = []
beforeEach(() => (probe = probeMachines(DATA_DIR)))
afterEach(() => void probe.stop())
after(() => {
  for (const child of started) child.kill('SIGKILL')
})

/** A process with the command line of a machine of this instance, which runs the script. */
async function machine(id: string, script: string): Promise<ChildProcess> {
  const child = spawn('sh', ['-c', script, '-name', `guest=${folderOf(id)}`], {
    argv0: 'qemu-system-x86_64',
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  started.push(child)
  await once(child, 'spawn')
  return child
}
const UNTIL_KILLED = 'echo up; read line'

async function up(id: string, script = UNTIL_KILLED): Promise<ChildProcess> {
  const child = await machine(id, script)
  await once(child.stdout!, 'data')
  return child
}
async function end(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}

/** Starts a second machine of the instance `z` repeatedly until the probe has reported one: it has read all processes since. */
async function probed(): Promise<{ pid: number }> {
  const first = await up('z')
  const before = probe.findings().length
  await until('the probe reports a second machine', async () => {
    await once(await machine('z', 'sleep 0.02'), 'exit')
    return probe.findings().length > before
  })
  await end(first)
  return { pid: first.pid! }
}
const ofOthers = (findings: string[]) => findings.filter((line) => !line.startsWith('inst_z'))

test('reports a second process that lives for 20 ms', async () => {
  const { pid } = await probed()
  assert.match(probe.stop()[0]!, new RegExp(`^inst_z{10}: (${pid} and \\d+|\\d+ and ${pid})$`))
})

test('reports neither machines of several instances nor successive machines of one', async () => {
  const other = await up('b')
  await probed()
  for (let round = 0; round < ROUNDS; round++) await end(await up('a'))
  assert.deepEqual(ofOthers(probe.stop()), [])
  await end(other)
})

test('reports neither a fork of a machine nor a process before it becomes one', async () => {
  await probed()
  for (let round = 0; round < ROUNDS; round++) {
    // The fork has the command line of the machine, as the shell of a chain has it of the start.
    const forks = await up('a', '(echo up; read line) <&0')
    const chain = spawn('sh', ['-c', UNTIL_KILLED, 'qemu-system-x86_64', '-name', `guest=${folderOf('a')}`])
    started.push(chain)
    await once(chain.stdout!, 'data')
    const forked = once(forks, 'exit')
    forks.stdin!.end()
    await Promise.all([forked, end(chain)])
  }
  assert.deepEqual(ofOthers(probe.stop()), [])
})

test('reports a process that was read before its exec and then becomes a machine', async () => {
  const script = `(read go; exec -a qemu-system-x86_64 sh -c '${UNTIL_KILLED}' -name "guest=$FOLDER") <&0 & wait`
  const other = spawn('bash', ['-c', script], { env: { ...process.env, FOLDER: folderOf('a') } })
  started.push(other)
  await probed()
  other.stdin.write('go\n')
  await once(other.stdout, 'data')
  const first = await up('a')
  await probed()
  assert.equal(ofOthers(probe.stop()).length, 1)
  const ended = once(other, 'exit')
  other.stdin.end()
  await Promise.all([ended, end(first)])
})

test('ignores zombies', async () => {
  const parent = `
    const { spawn } = require('node:child_process')
    const child = spawn('sh', ['-c', 'read line', '-name', 'guest=${folderOf('a')}'], { argv0: 'qemu-system-x86_64' })
    child.once('spawn', () => console.log(child.pid))`
  const careless = spawn(process.execPath, ['-e', parent], { stdio: ['ignore', 'pipe', 'inherit'] })
  started.push(careless)
  const pid = Number(await once(careless.stdout!, 'data'))
  await probed()
  careless.kill('SIGSTOP')
  process.kill(pid, 'SIGKILL')
  const next = await up('a')
  await probed()
  assert.deepEqual(ofOthers(probe.stop()), [])
  await Promise.all([next, careless].map(end))
})
