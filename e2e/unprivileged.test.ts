/** Without root the API is the same; QEMU runs as the user, and low ports are mapped to high ones. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { ControlPlane, NETWORK_DEVICE, run } from './control-plane.ts'
import { leftovers, qemuProcesses } from './leaks.ts'

const UID = 12345
const asUser = ['--reuid', `${UID}`, '--regid', `${UID}`, '--clear-groups', '--']
const canRead = (path: string) => spawnSync('setpriv', [...asUser, 'test', '-r', path]).status === 0

/** Why this host cannot run the test as another user; false if it can. */
function skipReason(): string | false {
  if (process.getuid?.() !== 0) return 'skipped: not root, so all other tests run without root already'
  const main = join(import.meta.dirname, '../server/src/main.ts')
  if (!existsSync(NETWORK_DEVICE)) return `skipped: the host has no ${NETWORK_DEVICE}`
  return canRead(main) && canRead(process.execPath) ? false : 'skipped: other users cannot read this checkout'
}

const skip = skipReason()
const folder = mkdtempSync(join(tmpdir(), 'cn-tun-'))
after(() => rmSync(folder, { recursive: true, force: true }))

/** A device for network namespaces with these permissions. */
async function networkDevice(mode: '600' | '666'): Promise<string> {
  const device = join(folder, mode)
  await run('mknod', [`--mode=${mode}`, device, 'c', '10', '200'])
  return device
}

test('an unprivileged user can run machines', { timeout: 240_000, skip }, async () => {
  const plane = await ControlPlane.create({ uid: UID, network_device: await networkDevice('600') })
  try {
    const id = await runsMachine(plane)
    const { isolation, status } = (await plane.call('GET', '/v2/regions')).body.data[0]
    assert.deepEqual([isolation.egress, status], ['unfiltered', 'available'])
    assert.match(isolation.reason, /without root, .*slirp4netns: /)
    await plane.printed(/Guests +NOT ISOLATED/)
    assert.equal((await createForOther(plane)).body.code, 'invalid_state')
    await terminate(plane, id)
  } finally {
    await plane.teardown()
  }
})

test('where users can connect network namespaces, guests are filtered', { timeout: 240_000, skip }, async () => {
  const plane = await ControlPlane.create({ uid: UID, network_device: await networkDevice('666') })
  try {
    const id = await runsMachine(plane)
    const { isolation } = (await plane.call('GET', '/v2/regions')).body.data[0]
    assert.equal(isolation.egress, 'filtered')
    assert.match(isolation.reason, /in a network namespace/)
    await plane.end('SIGKILL')
    await plane.start()
    assert.equal(await logIn(plane, (await plane.call('GET', `/v2/instances/${id}`)).body), 'mine')
    await terminate(plane, id)
    assert.equal((await createForOther(plane)).status, 201)
  } finally {
    await plane.teardown()
  }
  const left = await run('sh', ['-c', 'ps -eo args | grep -F "$1" | grep -v grep || true', 'sh', plane.data_dir])
  assert.equal(left, '')
})

async function runsMachine(plane: ControlPlane): Promise<string> {
  const { body } = await plane.call('POST', '/v2/instances', {
    ...{ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: 'mine' },
    network: { assign_public_ip: true },
  })
  const instance = await plane.waitFor(body.id, 'running')
  assert.deepEqual(
    instance.network.ports,
    [
      [22, 2222],
      [80, 8080],
      [443, 8443],
    ].map(([port, public_port]) => ({ port, public_port })),
  )
  assert.equal(instance.ssh.port, 2222)
  const [machine] = qemuProcesses(plane.data_dir)
  assert.equal(statSync(`/proc/${machine!.pid}`).uid, UID)
  assert.equal(await logIn(plane, instance), 'mine')
  return body.id
}

async function logIn(plane: ControlPlane, instance: { ssh: { host: string } }): Promise<string> {
  const settings = ['BatchMode=yes', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null']
  const options = settings.flatMap((setting) => ['-o', setting])
  const login = ['-p', '2222', `root@${instance.ssh.host}`, 'hostname']
  return (await run('ssh', ['-q', ...options, '-i', join(plane.data_dir, 'ssh/id_ed25519'), ...login])).trim()
}

async function createForOther(plane: ControlPlane) {
  const { live_key } = (await plane.call('POST', '/v2/projects', { name: 'other' })).body
  const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
  return plane.call('POST', '/v2/instances', body, live_key)
}

async function terminate(plane: ControlPlane, id: string): Promise<void> {
  await plane.call('DELETE', `/v2/instances/${id}`)
  await plane.waitFor(id, 'terminated')
  assert.deepEqual(leftovers(plane.data_dir), [])
}
