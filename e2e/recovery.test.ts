/** Real guests fail in every possible way and recover; guests that should not run stay off. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { newId } from '../server/src/lib/id.ts'
import { systemRandom } from '../server/src/lib/random.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'
import { leftovers, qemuProcesses } from './leaks.ts'
import { probeMachines } from './one-machine-per-disk.ts'
import {
  GUEST,
  killOnce,
  killRepeatedly,
  lastRecovery,
  machineOf,
  printFigures,
  recovered,
  resetFailures,
  ssh,
} from './recovery-scenario.ts'

const isRoot = process.getuid?.() === 0
const KILLS = 5

describe('recovery of real guests', { timeout: 900_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'cn-boot-'))
  const boot_id_file = join(folder, 'boot_id')
  const bootHost = () => writeFileSync(boot_id_file, `${newId('req', systemRandom)}\n`)
  let plane: ControlPlane
  let probe: ReturnType<typeof probeMachines>
  /** A guest that the tests share, and one that a test stops permanently. */
  let id = ''
  let stopped = ''

  before(async () => {
    bootHost()
    plane = await ControlPlane.create(isRoot ? { boot_id_file } : {})
    probe = probeMachines(plane.data_dir)
  })
  after(async () => {
    probe?.stop()
    if (process.env.SHOW_LOG) process.stdout.write(readFileSync(plane.log_file, 'utf8'))
    await plane?.teardown()
    rmSync(folder, { recursive: true })
  })
  const get = async (of: string) => (await plane.call('GET', `/v2/instances/${of}`)).body

  test(`recovers from ${KILLS} kills of QEMU with the same IP addresses and disk`, async () => {
    const { id: killed, figures } = await killRepeatedly(plane, KILLS)
    id = killed
    assert.equal(figures.length, KILLS)
    printFigures('kill -9', figures)
  })

  test('recovers from a kernel crash', async () => {
    await resetFailures(plane, id)
    const number = (await lastRecovery(plane, id)).number + 1
    await ssh(plane, await get(id), '(sleep 0.5; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &')
    const recovery = await recovered(plane, id, number)
    assert.equal(recovery.cause, 'guest_panicked')
    assert.equal(await ssh(plane, await get(id), 'tail -n 1 /root/rounds'), `${KILLS}`)
    process.stdout.write(`kernel crash: downtime ${recovery.downtime_seconds} s\n`)
  })

  test('recovers from a frozen QEMU', async () => {
    await resetFailures(plane, id)
    const number = (await lastRecovery(plane, id)).number + 1
    const ready = join(plane.data_dir, 'instances', id, 'ready')
    await until('the guest has reported that it is alive', () => readFileSync(ready, 'utf8').includes('alive'))
    const at = Date.now()
    process.kill(machineOf(plane, id), 'SIGSTOP')
    const recovery = await recovered(plane, id, number, 180)
    assert.equal(recovery.cause, 'guest_hung')
    assert.equal(await ssh(plane, await get(id), 'tail -n 1 /root/rounds'), `${KILLS}`)
    const detect = (Date.parse(recovery.detected_at) - at) / 1000
    process.stdout.write(`frozen: detection ${detect} s, downtime ${recovery.downtime_seconds} s\n`)
  })

  test('a stop ends a recovery', async () => {
    const { body } = await plane.call('POST', '/v2/instances', GUEST)
    stopped = body.id
    await plane.waitFor(stopped, 'running')
    await killOnce(plane, stopped)
    process.kill(machineOf(plane, stopped), 'SIGKILL')
    await plane.waitFor(stopped, 'recovering') // the second start waits for ten seconds
    await plane.call('POST', `/v2/instances/${stopped}/actions/stop`)
    await plane.waitFor(stopped, 'stopped')
    const { number, outcome, attempts } = await lastRecovery(plane, stopped)
    assert.deepEqual([number, outcome, attempts], [2, 'cancelled', 0])
  })

  test('a guest that powers itself off stays off', async () => {
    const { number } = await lastRecovery(plane, id)
    await ssh(plane, await get(id), '(sleep 0.5; poweroff) >/dev/null 2>&1 &')
    const off = await plane.waitFor(id, 'stopped')
    assert.equal(off.desired_status, 'stopped')
    assert.equal((await lastRecovery(plane, id)).number, number)
  })

  const reboot = 'after a host reboot exactly the guests that should run start, by priority, two at a time'
  const onlyRoot = ' (skipped: only root can let the control plane see another boot of the host)'
  test(isRoot ? reboot : reboot + onlyRoot, { skip: !isRoot }, async () => {
    const priorities = [10, 90, 50, 70, 50]
    const guests: string[] = []
    for (const recovery_priority of priorities)
      guests.push((await plane.call('POST', '/v2/instances', { ...GUEST, recovery_priority })).body.id)
    const { body: terminated } = await plane.call('POST', '/v2/instances', GUEST)
    await plane.call('DELETE', `/v2/instances/${terminated.id}`)
    for (const guest of guests) await plane.waitFor(guest, 'running')
    await plane.waitFor(terminated.id, 'terminated')
    const before = await Promise.all(guests.map(get))

    await plane.end('SIGKILL')
    for (const { pid } of qemuProcesses(plane.data_dir)) process.kill(pid, 'SIGKILL')
    await until('no QEMU process runs', () => qemuProcesses(plane.data_dir).length === 0)
    bootHost()
    await plane.start()
    const up = performance.now()
    let most = 0
    await until('all guests run', async () => {
      const pids = qemuProcesses(plane.data_dir).map(({ command }) => /inst_[0-9a-z]{10}/.exec(command)![0])
      const { data } = (await plane.call('GET', '/v2/instances?limit=100')).body
      const running = data.filter((each: any) => each.status === 'running').map((each: any) => each.id)
      most = Math.max(most, new Set(pids.filter((each) => !running.includes(each))).size)
      // From the last to the first: when one was started, all that were read after it had been started before.
      const seen: any[] = []
      for (const index of [0, 4, 2, 3, 1]) seen.push(await lastRecovery(plane, guests[index]!))
      const started = seen.map((each) => (each?.attempts ?? 0) > 0)
      assert.ok(!started.slice(started.indexOf(true)).includes(false) || !started.includes(true), `order: ${started}`)
      return seen.every((each) => each?.outcome === 'recovered')
    })
    process.stdout.write(
      `host reboot: ${guests.length} guests after ${((performance.now() - up) / 1000).toFixed(1)} s\n`,
    )
    assert.ok(most <= 2, `${most} booted at the same time`)
    const recoveries = await Promise.all(guests.map((each) => lastRecovery(plane, each)))
    for (const { cause, attempts } of recoveries) assert.deepEqual([cause, attempts], ['host_rebooted', 1])
    for (const [index, guest] of guests.entries()) {
      const now = await get(guest)
      for (const field of ['status', 'public_ip', 'private_ip', 'ssh'])
        assert.deepEqual(now[field], before[index][field])
    }
    const processes = qemuProcesses(plane.data_dir).map(({ command }) => /inst_[0-9a-z]{10}/.exec(command)![0])
    assert.deepEqual(processes.sort(), [...guests].sort())
    for (const off of [id, stopped]) assert.equal((await get(off)).status, 'stopped')
    assert.equal((await get(terminated.id)).status, 'terminated')
  })

  test('no disk ever had two machines, and nothing is left behind', async () => {
    assert.deepEqual(probe.stop(), [])
    const objective = (await plane.call('GET', '/v2/recovery_objective')).body
    process.stdout.write(`objective: ${JSON.stringify(objective)}\n`)
    const { data } = (await plane.call('GET', '/v2/instances?limit=100')).body
    for (const each of data) await plane.call('DELETE', `/v2/instances/${each.id}`)
    for (const each of data) await plane.waitFor(each.id, 'terminated')
    await until('nothing is left behind', () => leftovers(plane.data_dir).length === 0, 30)
  })
})
