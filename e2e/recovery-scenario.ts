/** Helpers of the recovery tests and their benchmark: kill guests and wait for their recovery. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { until } from '../server/src/testing/until.ts'
import { type ControlPlane, run } from './control-plane.ts'
import { qemuProcesses } from './leaks.ts'

/** The smallest guest with an SSH address. */
export const GUEST = {
  region: 'us-east-1',
  plan: 'micro-1x',
  image: 'micro-linux',
  network: { assign_public_ip: true },
}

/** Runs a command in a guest. */
export function ssh(plane: ControlPlane, instance: any, command: string): Promise<string> {
  const options = ['BatchMode=yes', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'ConnectTimeout=20']
  const flags = options.flatMap((option) => ['-o', option])
  const { user, host, port } = instance.ssh
  const identity = ['-i', join(plane.data_dir, 'ssh/id_ed25519')]
  return run('ssh', ['-q', ...flags, ...identity, '-p', `${port}`, `${user}@${host}`, command]).then((out) =>
    out.trim(),
  )
}

/** The process ID of an instance's machine. */
export function machineOf(plane: ControlPlane, id: string): number {
  const found = qemuProcesses(plane.data_dir).filter(({ command }) => command.includes(id))
  assert.equal(found.length, 1, `${id} has ${found.length} processes`)
  return found[0]!.pid
}

/** The newest recovery; undefined if there is none. */
export async function lastRecovery(plane: ControlPlane, id: string): Promise<any> {
  return (await plane.call('GET', `/v2/instances/${id}/recoveries?limit=1`)).body.data[0]
}

/** Waits for the end of recovery number `number`. */
export async function recovered(plane: ControlPlane, id: string, number: number, seconds = 120): Promise<any> {
  let last: any
  const ended = async () => {
    last = await lastRecovery(plane, id)
    return last?.number === number && last.outcome !== null
  }
  await until(`recovery ${number} of ${id} has ended`, ended, seconds).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify(last)}`)
  })
  assert.equal(last.outcome, 'recovered', JSON.stringify(last))
  return last
}

/** Kills the machine's process and waits for the recovery. Returns the seconds until detection and until the guest is ready. */
export async function killOnce(plane: ControlPlane, id: string): Promise<{ detect: number; downtime: number }> {
  const number = ((await lastRecovery(plane, id))?.number ?? 0) + 1
  const at = Date.now()
  process.kill(machineOf(plane, id), 'SIGKILL')
  const recovery = await recovered(plane, id, number)
  assert.deepEqual([recovery.cause, recovery.attempts], ['process_died', 1])
  const since = (time: string) => (Date.parse(time) - at) / 1000
  return { detect: since(recovery.detected_at), downtime: since(recovery.ended_at) }
}

/** Reboots the instance, which resets its count of failures. */
export async function resetFailures(plane: ControlPlane, id: string): Promise<void> {
  assert.equal((await plane.call('POST', `/v2/instances/${id}/actions/reboot`, { force: true })).status, 202)
  await plane.waitFor(id, 'running')
}

/** Kills the machine repeatedly; each time the instance recovers with its disk. Returns the durations of each round. */
export async function killRepeatedly(plane: ControlPlane, rounds: number) {
  const { body } = await plane.call('POST', '/v2/instances', GUEST)
  const first = await plane.waitFor(body.id, 'running')
  const figures: { detect: number; downtime: number }[] = []
  for (let round = 1; round <= rounds; round++) {
    await ssh(plane, first, `echo ${round} >>/root/rounds; sync`)
    figures.push(await killOnce(plane, first.id))
    const { body: up } = await plane.call('GET', `/v2/instances/${first.id}`)
    for (const field of ['id', 'status', 'public_ip', 'private_ip', 'ssh', 'ready_at', 'status_reason'])
      assert.deepEqual(up[field], first[field], field)
    const written = Array.from({ length: round }, (_, index) => `${index + 1}`).join('\n')
    assert.equal(await ssh(plane, up, 'cat /root/rounds'), written, 'the disk has what was written before')
    if (round < rounds) await resetFailures(plane, first.id)
  }
  return { id: first.id as string, figures }
}

/** Prints the durations of each round. */
export function printFigures(name: string, figures: { detect: number; downtime: number }[]): void {
  const show = (key: 'detect' | 'downtime') => figures.map((each) => each[key].toFixed(3)).join(' ')
  process.stdout.write(`${name}: detection ${show('detect')} s; downtime ${show('downtime')} s\n`)
}
