/** The egress filter with real guests, on a host in a network namespace of its own. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { commandLine } from '../../lib/processes.ts'
import { TransientError } from '../driver.ts'
import { openEgress } from './egress.ts'
import { testImage } from './testing.ts'

/** The user `nobody`; SSH requires one with a name. */
const UID = 65_534
const skip = process.getuid?.() === 0 ? false : 'needs root: network namespaces and nftables'
const root = mkdtempSync(join(tmpdir(), 'cn-egress-'))
after(() => rmSync(root, { recursive: true, force: true }))

const PRIVATE = ['10.9.0.1', '10.9.0.53', '10.9.0.7', '100.64.9.1', '169.254.169.254', '172.16.9.1', '192.168.9.1']
const HOST = ['100.96.0.2', '11.22.33.1']
const PUBLIC = ['11.22.33.9']
const API = HOST.map((address) => `tcp ${address} 7004`)
const NEIGHBOUR = /^tcp 127\.\d+\.\d+\.\d+ 22$/
const services = (addresses: string[]) =>
  addresses.flatMap((address) => [`tcp ${address} 7000`, `udp ${address} 7000`]).sort()

describe('what a guest reaches', { skip }, () => {
  whatAGuestReaches(null)
})

describe('what a guest reaches, without root', { skip: skip || skipOther() }, () => {
  const seen = whatAGuestReaches(UID)

  test('QEMU runs in a network namespace of the machines, without any capability', () => {
    const { separate, capabilities } = seen().namespace
    assert.deepEqual([separate, Number.parseInt(capabilities, 16)], [true, 0])
  })

  test('the processes of the namespace are started again, and nothing more is reached', () => {
    const { killed, helpers, reached } = seen().namespace
    assert.deepEqual([killed, helpers], [2, 2])
    assert.deepEqual(reached, [services(PUBLIC), services(PUBLIC)])
  })

  test('guests of a subnet still reach each other afterwards', () => assert.equal(seen().namespace.private, true))
})

/** Declares the tests of one scenario; `uid`: the user of the control plane. Returns how to get what was seen. */
function whatAGuestReaches(uid: number | null): () => Record<string, any> {
  let seen: Record<string, any>
  before(
    async () => {
      // Its packages are downloaded, which the namespace cannot do.
      await testImage()
      seen = await scenario(uid)
    },
    { timeout: 400_000 },
  )

  test('without a filter, everything that the host reaches', () => {
    assert.deepEqual(seen.unfiltered, [...services([...PRIVATE, ...HOST, ...PUBLIC]), ...API].sort())
    const [others, neighbour] = split(seen.rerouted_unfiltered)
    assert.deepEqual(others, services(['127.0.0.2', ...PRIVATE]))
    assert.equal(neighbour.length, 1)
  })

  test('with the filter, the public internet and DNS', () => {
    assert.deepEqual(seen.filtered, services(PUBLIC))
    assert.equal(seen.dns, true)
  })

  test('what the operator allows, except the API', () => {
    // Loopback addresses of the host are those of the namespace for machines that run in one.
    const loopback = uid === null ? ['100.96.0.2'] : []
    assert.deepEqual(seen.operator_allows, services(['10.9.0.7', ...loopback, ...PUBLIC]))
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
  return () => seen
}

const policy = {
  installation_id: 'egress-test',
  service_uid: 1_600_000_000,
  multicast_group: '230.1.1.1',
  multicast_port_base: 20_000,
  refused_ports: [],
  allow: [],
  public_addresses: [],
  data_dir: join(root, 'data'),
  run_dir: join(root, 'run'),
}

test('without a usable packet filter, guests are not filtered, and the reason is given', async () => {
  const reason = async (changes: object) => (await openEgress({ ...policy, ...changes })).unfiltered_reason
  assert.match((await reason({ nft: '/nonexistent/nft' }))!, /nft is not installed/)
  assert.match((await reason({ nft: 'false' }))!, /rules cannot be set on this host/)
})

test('without root, the reason is also given, and no process stays', async () => {
  const egress = await openEgress({ ...policy, service_uid: null, nft: 'false' })
  assert.match(egress.unfiltered_reason!, /^without root, rules cannot be set on this host/)
  const left = readdirSync('/proc').filter(
    (name) => /^\d+$/.test(name) && commandLine(Number(name)).join(' ').includes(root),
  )
  assert.deepEqual(left, [])
})

test('a program that could not be started does not prove that the host has no packet filter', async () => {
  await assert.rejects(openEgress({ ...policy, nft: '/etc/passwd' }), TransientError)
})

function split(reached: string[]): [string[], string[]] {
  return [reached.filter((each) => !NEIGHBOUR.test(each)), reached.filter((each) => NEIGHBOUR.test(each))]
}

/** Why the host of the test cannot have other users; false if it can. */
function skipOther(): string | false {
  const asOther = ['setpriv', '--reuid', `${UID}`, '--clear-groups', '--'] as const
  const succeeds = (...command: string[]) => spawnSync(asOther[0], [...asOther.slice(1), ...command]).status === 0
  if (!succeeds('test', '-r', import.meta.filename) || !succeeds('test', '-x', process.execPath))
    return 'other users cannot read this checkout'
  return succeeds('unshare', '--user', '--map-root-user', '--net', 'true')
    ? false
    : 'users cannot create namespaces here'
}

/** Runs testing-egress.ts in a network and a mount namespace, and returns what it found. */
async function scenario(uid: number | null): Promise<Record<string, any>> {
  const script = join(import.meta.dirname, 'testing-egress.ts')
  const namespaces = ['--net', '--mount', '--propagation', 'private', '--']
  const args = [process.execPath, script, root, ...(uid === null ? [] : [`${uid}`])]
  const child = spawn('unshare', [...namespaces, ...args], { timeout: 380_000 })
  let [out, errors] = ['', '']
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (errors += chunk))
  const code = await new Promise((resolve) => child.on('close', resolve))
  assert.equal(code, 0, errors)
  return JSON.parse(out)
}
