/** The egress filter with real guests, on a host in a network namespace of its own. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { TransientError } from '../driver.ts'
import { openEgress } from './egress.ts'
import { testImage } from './testing.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root: network namespaces and nftables'
const folder = mkdtempSync(join(tmpdir(), 'cn-egress-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const PRIVATE = ['10.9.0.1', '10.9.0.53', '10.9.0.7', '100.64.9.1', '169.254.169.254', '172.16.9.1', '192.168.9.1']
const HOST = ['100.96.0.2', '11.22.33.1']
const PUBLIC = ['11.22.33.9']
const NEIGHBOUR = /^tcp 127\.\d+\.\d+\.\d+ 22$/
const services = (addresses: string[]) =>
  addresses.flatMap((address) => [`tcp ${address} 7000`, `udp ${address} 7000`]).sort()

describe('what a guest reaches', { skip }, () => {
  let seen: Record<string, any>
  before(
    async () => {
      // Its packages are downloaded, which the namespace cannot do.
      await testImage()
      seen = await scenario()
    },
    { timeout: 300_000 },
  )

  test('without a filter, everything that the host reaches', () => {
    assert.deepEqual(seen.unfiltered, services([...PRIVATE, ...HOST, ...PUBLIC]))
    assert.equal(seen.api_unfiltered.length, 2)
    const [others, neighbour] = split(seen.rerouted_unfiltered)
    assert.deepEqual(others, services(['127.0.0.2', ...PRIVATE]))
    assert.equal(neighbour.length, 1)
  })

  test('with the filter, the public internet and DNS', () => {
    assert.deepEqual(seen.filtered, services(PUBLIC))
    assert.equal(seen.dns, true)
  })

  test('what the operator allows, except the API', () => {
    assert.deepEqual(seen.operator_allows, services(['10.9.0.7', '100.96.0.2', ...PUBLIC]))
    assert.deepEqual(seen.api_operator_allows, [])
  })

  test('nothing more while the control plane is stopped', () => assert.deepEqual(seen.stopped, services(PUBLIC)))

  test('nothing more with routes of its own: no loopback address of the host, no other guest', () =>
    assert.deepEqual(seen.rerouted, []))

  test('the filter is set again after another program has removed it', () => {
    assert.equal(seen.flushed.length, 1, 'it was removed')
    assert.deepEqual(seen.set_again, [true, false])
    assert.deepEqual(seen.filtered_again, [])
  })

  test('other rules of the host stay, and no rule of ours remains', () => {
    assert.equal(seen.foreign_untouched, true)
    assert.deepEqual(seen.tables_left, ['table inet operators'])
  })
})

const policy = {
  installation_id: 'egress-test',
  service_uid: 1_600_000_000,
  multicast_group: '230.1.1.1',
  multicast_port_base: 20_000,
  refused_ports: [],
  allow: [],
}

test('without root, or without a usable packet filter, guests are not filtered, and the reason is given', async () => {
  const reason = async (changes: object) => (await openEgress({ ...policy, ...changes })).unfiltered_reason
  assert.match((await reason({ service_uid: null }))!, /user of the control plane/)
  assert.match((await reason({ nft: '/nonexistent/nft' }))!, /nft is not installed/)
  assert.match((await reason({ nft: 'false' }))!, /nft cannot set rules on this host/)
})

test('a program that could not be started does not prove that the host has no packet filter', async () => {
  await assert.rejects(openEgress({ ...policy, nft: '/etc/passwd' }), TransientError)
})

function split(reached: string[]): [string[], string[]] {
  return [reached.filter((each) => !NEIGHBOUR.test(each)), reached.filter((each) => NEIGHBOUR.test(each))]
}

/** Runs testing-egress.ts in a network and a mount namespace, and returns what it found. */
async function scenario(): Promise<Record<string, any>> {
  const script = join(import.meta.dirname, 'testing-egress.ts')
  const namespaces = ['--net', '--mount', '--propagation', 'private', '--']
  const child = spawn('unshare', [...namespaces, process.execPath, script, folder], { timeout: 240_000 })
  let [out, errors] = ['', '']
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (errors += chunk))
  const code = await new Promise((resolve) => child.on('close', resolve))
  assert.equal(code, 0, errors)
  return JSON.parse(out)
}
