/** deploy/cloudnexus.service: systemd accepts the unit, and its commands start, stop and restart the control plane. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { identify } from '../server/src/lib/processes.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'
import { qemuProcesses } from './leaks.ts'

const ROOT = join(import.meta.dirname, '..')
const UNIT = join(ROOT, 'deploy/cloudnexus.service')

let plane: ControlPlane
let folder: string
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cn-service-'))
  plane = await ControlPlane.create()
  await plane.end('SIGTERM')
})
after(async () => {
  await plane?.teardown()
  rmSync(folder, { recursive: true, force: true })
})

/** The unit with the folders of this test in place of those of an installed service. */
function unit(): string {
  return readFileSync(UNIT, 'utf8')
    .replaceAll('/opt/cloudnexus', ROOT)
    .replaceAll('/var/lib/cloudnexus/data', plane.data_dir)
}

/** The words of a setting of the unit, which contain no quotes. */
function setting(name: string): string[] {
  const values = [...unit().matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value]) => value!)
  assert.equal(values.length, 1, name)
  return values[0]!.split(' ')
}

test('systemd accepts the unit', () => {
  mkdirSync(folder, { recursive: true })
  const file = join(folder, 'cloudnexus.service')
  writeFileSync(file, unit())
  const { status, stderr, stdout } = spawnSync('systemd-analyze', ['verify', '--man=no', file], { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  // Other units of the host can have faults of their own.
  const faults = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('cloudnexus'))
  assert.deepEqual(faults, [])
})

test('its commands start the control plane, and a stop leaves the machines running', { timeout: 300_000 }, async () => {
  const [cwd] = setting('WorkingDirectory')
  const [program, ...args] = setting('ExecStartPre')
  const prepared = spawnSync(program!, args, { cwd: cwd!, encoding: 'utf8' })
  assert.deepEqual([prepared.status, prepared.stdout, prepared.stderr], [0, '', ''])

  const start = async (): Promise<ChildProcess> => {
    const [node, ...more] = setting('ExecStart')
    const env = { ...process.env, CLOUDNEXUS_ACCEL: 'tcg' }
    const child = spawn(node!, [...more, '--port', `${plane.port}`], { cwd: cwd!, env, stdio: 'ignore' })
    const url = `http://127.0.0.1:${plane.port}/readyz`
    await until('it is ready', async () => (await fetch(url).catch(() => null))?.ok)
    return child
  }
  /** What systemd does with KillMode=process: SIGTERM to the main process alone. */
  const stop = async (child: ChildProcess) => {
    const ended = once(child, 'exit')
    process.kill(child.pid!, 'SIGTERM')
    assert.deepEqual(await ended, [0, null])
  }
  assert.deepEqual(setting('KillMode'), ['process'])

  const first = await start()
  const { body } = await plane.call('POST', '/v2/instances', {
    ...{ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' },
  })
  await plane.waitFor(body.id, 'running')
  const [machine] = qemuProcesses(plane.data_dir)
  await stop(first)
  assert.ok(identify(machine!.pid))
  const second = await start()
  assert.equal((await plane.waitFor(body.id, 'running')).id, body.id)
  assert.deepEqual(
    qemuProcesses(plane.data_dir).map(({ pid }) => pid),
    [machine!.pid],
  )
  await stop(second)
})
