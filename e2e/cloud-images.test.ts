/**
 * Images that are not built in: Debian by its recipe, and a publisher's cloud image from a mirror, which boots its own boot
 * loader. The publisher's disk is made from the Debian image, so it contains a real cloud-init.
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane, run } from './control-plane.ts'
import { DOCUMENTED_BODY } from './documented-body.ts'
import { leftovers, qemuProcesses } from './leaks.ts'
import { Mirror } from './mirror.ts'

const FIXTURE = join(import.meta.dirname, '../images/test-fixtures/self-booting.sh')
const JAMMY = ['jammy/current', 'jammy-server-cloudimg-amd64.img'] as const
const NOBLE = ['noble/current', 'noble-server-cloudimg-amd64.img'] as const

const mirror = new Mirror()
let plane: ControlPlane

function ssh(instance: any, command: string): Promise<string> {
  const options = ['BatchMode=yes', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'ConnectTimeout=20']
  const flags = options.flatMap((option) => ['-o', option])
  const { user, host, port } = instance.ssh
  const target = ['-p', String(port), `${user}@${host}`]
  const identity = ['-i', join(plane.data_dir, 'ssh/id_ed25519')]
  return run('ssh', ['-q', ...flags, ...identity, ...target, command]).then((out) => out.trim())
}

describe('cloud images', { timeout: 1_500_000 }, () => {
  before(async () => {
    await mirror.start()
    plane = await ControlPlane.create({
      env: { CLOUDNEXUS_IMAGE_STALL_TIMEOUT_SECONDS: '5' },
      config: { mirrors: { ubuntu: { url: mirror.url, keyring: mirror.keyring, fingerprints: [mirror.fingerprint] } } },
    })
  })
  after(async () => {
    await plane?.teardown()
    await mirror.remove()
  })

  test('debian-12 is built on demand, boots, and applies the user data', async () => {
    const begin = Date.now()
    const { status, body } = await plane.call('POST', '/v2/instances', {
      region: 'us-east-1',
      plan: 'standard-1x',
      image: 'debian-12',
      name: 'deb',
      network: { assign_public_ip: true },
      user_data: '#cloud-config\nruncmd:\n  - echo "$(hostname) by cloud-init" > /root/user-data\n',
    })
    assert.equal(status, 201)
    await until('the import shows its progress', async () => {
      const image = (await plane.call('GET', '/v2/images/debian-12')).body
      return image.status === 'importing' && image.progress?.phase === 'building'
    })
    const instance = await plane.waitFor(body.id, 'running', 600)
    const ready = Date.parse(instance.ready_at)
    assert.ok(ready >= begin - 1000 && ready <= Date.now(), 'ready_at is when the guest was ready')
    const uptime = Number(await ssh(instance, 'cut -d" " -f1 /proc/uptime'))
    assert.ok(uptime > 5, 'it was not ready before it had booted')
    await until('cloud-init has applied the user data', async () => {
      return (await ssh(instance, 'cat /root/user-data || true')) === 'deb by cloud-init'
    })
    assert.match(await ssh(instance, '. /etc/os-release; echo $ID $VERSION_ID'), /^debian 12/)
    await plane.call('POST', `/v2/instances/${body.id}/actions/stop`)
    await plane.waitFor(body.id, 'stopped')
    await plane.call('DELETE', `/v2/instances/${body.id}`)
    await plane.waitFor(body.id, 'terminated')
  })

  test("the documented request creates a running machine from the publisher's disk", async () => {
    const disk = join(mirror.folder, 'self-booting.qcow2')
    await run('bash', [FIXTURE, join(plane.data_dir, 'images/img_debian0012'), disk], { timeout_ms: 300_000 })
    await mirror.publish(...JAMMY, disk)
    await mirror.publish(...NOBLE, disk)
    await mirror.sign(...NOBLE, 'f'.repeat(64))
    const { status, body } = await plane.call('POST', '/v2/instances', DOCUMENTED_BODY)
    assert.equal(status, 201)
    const instance = await plane.waitFor(body.id, 'running', 400)
    assert.match(await ssh(instance, 'nproc; cat /proc/cmdline'), /^4\n/)
    await plane.call('DELETE', `/v2/instances/${body.id}`)
    await plane.waitFor(body.id, 'terminated')
  })

  test('with a broken mirror the instance fails with the reason and leaves nothing; a rebuild retries', async (t) => {
    const sum = await run('sha256sum', [join(mirror.folder, 'files', ...NOBLE)])
    const good = sum.split(' ')[0]!
    const body = { region: 'us-east-1', plan: 'standard-1x', image: 'ubuntu-24.04-lts' }
    const id: string = (await plane.call('POST', '/v2/instances', body)).body.id
    /** Asserts that the instance fails with this code and leaves nothing behind. */
    async function fails(code: string): Promise<void> {
      const instance = await plane.waitFor(id, 'failed', 60)
      assert.equal(instance.status_reason.code, code)
      assert.match(instance.status_reason.message, /127\.0\.0\.1/, 'the message contains the source')
      const image = (await plane.call('GET', '/v2/images/ubuntu-24.04-lts')).body
      assert.deepEqual([image.status, image.error.code], ['failed', code])
      assert.deepEqual(leftovers(plane.data_dir), [])
      assert.ok(!existsSync(join(plane.data_dir, 'images/img_ubuntu2404')))
      assert.deepEqual(readdirSync(join(plane.data_dir, 'imports')), [])
    }
    const again = () => plane.call('POST', `/v2/instances/${id}/actions/rebuild`)

    await t.test('a checksum that differs from the list', () => fails('image_checksum_mismatch'))
    await t.test('a truncated file', async () => {
      await mirror.sign(...NOBLE, good)
      mirror.truncates = true
      assert.equal((await again()).status, 202)
      await fails('image_checksum_mismatch')
      mirror.truncates = false
    })
    await t.test('a mirror that is unreachable', async () => {
      await mirror.stop()
      await again()
      await fails('image_source_unreachable')
      await mirror.start()
    })
    await t.test('starts after the mirror is repaired', async () => {
      await again()
      // The publisher's disk is that of the test before, which waits until it has booted.
      const isOurs = ({ command }: { command: string }) => command.includes(id)
      await until('the machine starts', () => qemuProcesses(plane.data_dir).some(isOurs), 120)
      assert.equal((await plane.call('GET', '/v2/images/ubuntu-24.04-lts')).body.status, 'available')
    })
  })
})
