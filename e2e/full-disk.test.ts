/**
 * A host whose disk is full, with the real control plane, PostgreSQL and a guest on a small file system of its own. Nothing
 * healthy is restarted, nothing that was confirmed is lost, and responses say what is wrong.
 */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane, run } from './control-plane.ts'
import { machineOf, ssh } from './recovery-scenario.ts'
import { fillDisk, freeMib, type GiveBack, mountSmallDisk, unmountSmallDisk } from './starvation.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root: mounts a file system'
const SIZE_MIB = 2400

describe('a full disk', { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'cn-full-'))
  let giveBack: GiveBack = async () => {}
  let plane: ControlPlane
  let guest: any
  let pid: number
  before(async () => {
    await mountSmallDisk(folder, SIZE_MIB)
    mkdirSync(join(folder, 'tmp'), { mode: 0o711 })
    plane = await ControlPlane.create({ folder: 'data', open: true, parent: join(folder, 'tmp') })
    const { body } = await plane.call('POST', '/v2/instances', {
      ...{ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: 'guest' },
      network: { assign_public_ip: true },
    })
    guest = await plane.waitFor(body.id, 'running')
    pid = machineOf(plane, guest.id)
  })
  after(async () => {
    await giveBack()
    await plane?.teardown()
    unmountSmallDisk(folder)
    rmSync(folder, { recursive: true, force: true })
  })

  const free = () => freeMib(folder)
  /** Fills the disk until this many MiB are free. */
  const leave = async (mib: number) => void (giveBack = await fillDisk(folder, mib))
  const ready = async () => (await fetch(`http://127.0.0.1:${plane.port}/readyz`)).status
  const tag = (value: string) => plane.call('PATCH', `/v2/instances/${guest.id}`, { tags: { value } })
  const stateOf = async () => (await plane.call('GET', `/v2/instances/${guest.id}`)).body
  const bootOf = async () => (await ssh(plane, guest, 'cat /proc/sys/kernel/random/boot_id')).trim()
  let boot: string

  test('an upload larger than the disk is refused at once, and other requests are served', async () => {
    boot = await bootOf()
    const { body } = await plane.call('POST', '/v2/images', { name: 'huge', source: 'upload' })
    const url = `http://127.0.0.1:${plane.port}/v2/images/${body.id}/content`
    const key = `Authorization: Bearer ${plane.credentials.live_key}`
    const headers = ['-H', key, '-H', 'Content-Type: application/octet-stream', '-H', 'Expect:']
    // Without a known length, so that only the reservations of its parts can refuse it.
    const script = 'head -c 5000000000 /dev/zero | curl -s -T - "$@"'
    const out = await run('sh', ['-c', script, 'sh', ...headers, '-w', '\n%{http_code}', url])
    assert.match(out, /"scope":"host".*\n409$/s)
    assert.match(out, /MiB left for images/)
    assert.ok(free() > 400, `${free()} MiB are free`)
    assert.equal((await tag('after-upload')).status, 200)
    assert.equal(await ready(), 200)
  })

  test('a guest that writes without end is paused before PostgreSQL lacks space, and continues when space is free', async () => {
    await leave(400)
    await ssh(plane, guest, '(cat /dev/urandom >/root/junk) >/dev/null 2>&1 </dev/null &')
    await until('the guest is paused', async () => (await stateOf()).status === 'recovering')
    assert.ok(free() > 64, `${free()} MiB are free`)
    assert.equal((await tag('while-paused')).status, 200)
    assert.equal(await ready(), 503)
    const { status, body } = await plane.call('POST', '/v2/instances', {
      ...{ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: 'more' },
    })
    assert.equal(status, 201)
    const more = await found(async () => {
      const seen = (await plane.call('GET', `/v2/instances/${body.id}`)).body
      return seen.status === 'failed' ? seen : null
    })
    assert.equal(more.status_reason.code, 'disk_full')
    await giveBack()
    giveBack = async () => {}
    await plane.waitFor(guest.id, 'running')
    await ssh(plane, guest, 'killall cat; rm -f /root/junk; true')
    assert.deepEqual([await bootOf(), machineOf(plane, guest.id)], [boot, pid], 'it was resumed, not restarted')
    assert.equal(await ready(), 200)
  })

  test('without a free byte writes are refused with 507 or 503, and what was confirmed is there afterwards', async () => {
    await leave(0)
    const confirmed = new Set<string>()
    const codes = new Set<number>()
    for (let i = 0; i < 40; i++) {
      const value = `value-${i}-${'x'.repeat(200)}`
      const response = await tag(value).catch(() => null)
      if (response === null) continue
      codes.add(response.status)
      if (response.status === 200) confirmed.add(value)
      else assert.match(response.body.detail, /disk of the host is full|database is unavailable/)
    }
    for (const code of codes) assert.ok([200, 503, 507].includes(code), `${[...codes]}`)
    assert.equal(await ready(), 503)
    await giveBack()
    giveBack = async () => {}
    await until('the control plane is ready', async () => (await ready()) === 200)
    await plane.waitFor(guest.id, 'running')
    assert.equal(machineOf(plane, guest.id), pid)
    const { value } = (await stateOf()).tags
    const last = [...confirmed].at(-1)
    if (last !== undefined)
      assert.ok(Number(value.split('-')[1]) >= Number(last.split('-')[1]), 'the last confirmed write')
    assert.equal((await tag('end')).status, 200)
    const { body } = await plane.call('GET', '/v2/events?limit=100')
    assert.ok(body.data.length > 0)
  })
})

/** Polls until there is a result. */
async function found<T>(read: () => Promise<T | null>): Promise<T> {
  let result: T | null = null
  await until('a result', async () => (result = await read()) !== null)
  return result!
}
