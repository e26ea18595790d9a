/** Without root the API is the same; QEMU runs as the user, and low ports are mapped to high ones. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { ControlPlane, run } from './control-plane.ts'
import { leftovers, qemuProcesses } from './leaks.ts'

const UID = 12345
const asUser = ['--reuid', `${UID}`, '--regid', `${UID}`, '--clear-groups', '--']
const canRead = (path: string) => spawnSync('setpriv', [...asUser, 'test', '-r', path]).status === 0

/** Why this host cannot run the test as another user; false if it can. */
function skipReason(): string | false {
  if (process.getuid?.() !== 0) return 'skipped: not root, so all other tests run without root already'
  const main = join(import.meta.dirname, '../server/src/main.ts')
  return canRead(main) && canRead(process.execPath) ? false : 'skipped: other users cannot read this checkout'
}

test('an unprivileged user can run machines', { timeout: 240_000, skip: skipReason() }, async () => {
  const plane = await ControlPlane.create({ uid: UID })
  try {
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
    const options = ['BatchMode=yes', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null'].flatMap((o) => [
      '-o',
      o,
    ])
    const login = ['-p', '2222', `root@${instance.ssh.host}`, 'hostname']
    const out = await run('ssh', ['-q', ...options, '-i', join(plane.data_dir, 'ssh/id_ed25519'), ...login])
    assert.equal(out.trim(), 'mine')
    const { isolation, status } = (await plane.call('GET', '/v2/regions')).body.data[0]
    assert.deepEqual([isolation.egress, status], ['unfiltered', 'available'])
    assert.match(isolation.reason, /user of the control plane/)
    await plane.printed(/Guests +NOT ISOLATED/)
    const { live_key } = (await plane.call('POST', '/v2/projects', { name: 'other' })).body
    const other = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
    assert.equal((await plane.call('POST', '/v2/instances', other, live_key)).body.code, 'invalid_state')
    await plane.call('DELETE', `/v2/instances/${body.id}`)
    await plane.waitFor(body.id, 'terminated')
    assert.deepEqual(leftovers(plane.data_dir), [])
  } finally {
    await plane.teardown()
  }
})
