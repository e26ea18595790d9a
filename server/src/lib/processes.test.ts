/** A check of a process that fails says nothing about it: only a process that is known to have ended counts as ended. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { commandLine, identify, isAlive, signal, whileAlive } from './processes.ts'

const SOURCE = join(import.meta.dirname, '..')
const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-processes-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('a process that has ended is not alive, has no command line and gets no signal', async () => {
  const child = spawn('sleep', ['60'])
  await once(child, 'spawn')
  const identity = identify(child.pid!)!
  assert.ok(isAlive(identity))
  assert.deepEqual(commandLine(child.pid!), ['sleep', '60'])
  const ended = once(child, 'exit')
  signal(identity, 'SIGKILL')
  await ended
  assert.equal(isAlive(identity), false)
  assert.equal(identify(child.pid!), null)
  assert.deepEqual(commandLine(child.pid!), [])
  signal(identity, 'SIGKILL')
})

test('an error that does not mean absence is thrown', () => {
  const failing = (code: string) => () => {
    throw Object.assign(new Error(code), { code })
  }
  for (const code of ['ENOENT', 'ESRCH']) assert.equal(whileAlive(failing(code)), null)
  for (const code of ['EMFILE', 'ENFILE', 'ENOMEM', 'EACCES', 'EIO', 'EINTR']) {
    assert.throws(() => whileAlive(failing(code)), { code })
  }
})

test('without free descriptors nothing that runs is taken for ended', () => {
  const job = join(folder, 'job')
  mkdirSync(job)
  mkdirSync(join(folder, 'instances/inst_0000000000'), { recursive: true })
  const self = JSON.stringify(identify(process.pid))
  writeFileSync(join(job, 'process.json'), self)
  writeFileSync(join(folder, 'lock'), `${self}\n`)
  writeFileSync(join(folder, 'postmaster.pid'), `${process.pid}\n`)
  writeFileSync(join(folder, 'qemu.pid'), `${process.pid}\n`)
  const script = `
    import { openSync } from 'node:fs'
    import { identify, isAlive, commandLine } from ${JSON.stringify(join(SOURCE, 'lib/processes.ts'))}
    import { findByPidFile, findMachineProcesses, waitForEnd } from ${JSON.stringify(join(SOURCE, 'drivers/qemu/process.ts'))}
    import { findServer } from ${JSON.stringify(join(SOURCE, 'db/embedded.ts'))}
    import { runningImporter } from ${JSON.stringify(join(SOURCE, 'images/process.ts'))}
    import { readHolder } from ${JSON.stringify(join(SOURCE, 'start/lock.ts'))}
    import { systemClock } from ${JSON.stringify(join(SOURCE, 'lib/clock.ts'))}
    const folder = ${JSON.stringify(folder)}
    const identity = identify(process.pid)
    try { for (;;) openSync('/dev/null', 'r') } catch {}
    const checks = {
      identify: () => identify(process.pid),
      isAlive: () => isAlive(identity),
      commandLine: () => commandLine(process.pid),
      waitForEnd: () => waitForEnd(identity, 0, systemClock),
      findByPidFile: () => findByPidFile(folder + '/qemu.pid', folder),
      findMachineProcesses: () => findMachineProcesses(folder),
      findServer: () => findServer(folder),
      runningImporter: () => runningImporter(folder + '/job'),
      readHolder: () => readHolder(folder),
    }
    const results = {}
    for (const [name, check] of Object.entries(checks)) {
      try { results[name] = await check() } catch (error) { results[name] = error.code }
    }
    process.stdout.write(JSON.stringify(results))`
  const command = ['--nofile=64:64', process.execPath, '--input-type=module', '-e', script]
  const { stdout, stderr } = spawnSync('prlimit', command, { encoding: 'utf8', timeout: 60_000 })
  const results = JSON.parse(stdout || JSON.stringify({ failed: stderr })) as Record<string, unknown>
  assert.equal(Object.keys(results).length, 9, stderr)
  for (const [name, result] of Object.entries(results)) assert.equal(result, 'EMFILE', name)
})
