/**
 * Real guests on a host in a network namespace, and what they reach. Run by egress.test.ts in a network and a mount
 * namespace of its own; prints one JSON object. The networks around the host are a second namespace (testing-outside.ts).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { systemClock as clock } from '../../lib/clock.ts'
import type { MachineSpec } from '../driver.ts'
import type { QemuDriver } from './driver.ts'
import { unfiltered } from './egress.ts'
import { tableOf } from './egress-rules.ts'
import { runProgram } from './run-program.ts'
import { makeWorld, sshKey, until } from './testing.ts'
import { greet } from './testing-greeting.ts'

const HOST = '11.22.33.1'
const PUBLIC = '11.22.33.9'
const DNS = '10.9.0.53'
const OUTSIDE = ['169.254.169.254', '10.9.0.1', '172.16.9.1', '192.168.9.1', '100.64.9.1', '10.9.0.7', DNS]
const PORT = 7000
const API_PORT = 7004
/** The guest's name of 127.0.0.1 of the host. */
const GATEWAY = '100.96.0.2'

const outside = await connectOutside()
await greet('127.0.0.1', PORT)
await greet('127.0.0.2', PORT)
await greet('127.0.0.9', PORT)
await greet(HOST, PORT)
await greet('0.0.0.0', API_PORT)
await runProgram(
  ['nft', '-f', '-'],
  5_000,
  `table inet operators {
    chain output { type filter hook output priority 10; policy accept; tcp dport 4242 counter drop; }
  }`,
)
const foreign = () => runProgram(['nft', 'list', 'table', 'inet', 'operators'])
const tables = async () => (await runProgram(['nft', 'list', 'tables'])).trim().split('\n')
const foreignBefore = await foreign()

const allow = ['10.9.0.7', '10.9.0.7/32', '127.0.0.9/32', '127.0.0.1']
const world = await makeWorld({ refused_ports: [API_PORT], guest_allow: allow })
const strict = await makeWorld({ refused_ports: [API_PORT] })
const open = await makeWorld({ egress: unfiltered('a test') })
const ssh = await sshKey(dirname(world.options.data_dir))
const [allowed, tenant, unprotected] = await Promise.all(
  [world, strict, open].map(boot) as [Promise<Guest>, Promise<Guest>, Promise<Guest>],
)
const neighbour = allowed.spec.network.public_ip!

const result: Record<string, unknown> = {}
const first = probes([...OUTSIDE, PUBLIC, GATEWAY, HOST])
result.unfiltered = await reached(unprotected, first)
result.filtered = await reached(tenant, first)
result.operator_allows = await reached(allowed, first)
const api = [`tcp ${GATEWAY} ${API_PORT}`, `tcp ${HOST} ${API_PORT}`]
result.api_unfiltered = await reached(unprotected, api)
result.api_operator_allows = await reached(allowed, api)
result.dns = await resolves(tenant)
// From here on no control plane runs, so nothing sets the rules again by itself.
await Promise.all([strict, world, open].map((each) => each.driver.close()))
result.stopped = await reached(tenant, first)

// The guest has no loopback interface of its own, and sends everything to the gateway of its choice.
const reroute = [
  'ip link set lo down',
  'for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$f; done',
  `for ip in 127.0.0.2 ${neighbour} ${OUTSIDE.join(' ')}; do ip route replace $ip via ${GATEWAY} dev $(cat /run/dhcp-cards); done`,
].join('; ')
const second = [...probes(['127.0.0.2', ...OUTSIDE]), `tcp ${neighbour} 22`]
result.rerouted_unfiltered = await reached(unprotected, second, reroute)
result.rerouted = await reached(tenant, second, reroute)

await runProgram(['nft', 'delete', 'table', 'inet', tableOf(strict.options.installation_id)])
result.flushed = await reached(tenant, [`tcp ${GATEWAY} ${PORT}`])
result.set_again = [await strict.options.egress.ensure(), await strict.options.egress.ensure()]
result.filtered_again = await reached(tenant, [`tcp ${GATEWAY} ${PORT}`])
result.foreign_untouched = (await foreign()) === foreignBefore
for (const each of [world, strict, open]) await each.remove()
result.tables_left = await tables()
outside.kill()
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))

type Guest = { driver: QemuDriver; spec: MachineSpec }

/** Connects this namespace with a second one, in which the services run. */
async function connectOutside() {
  const script = join(import.meta.dirname, 'testing-outside.ts')
  const child = spawn('unshare', ['--net', process.execPath, script, `${PORT}`, DNS, PUBLIC], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await once(child, 'spawn')
  const pid = child.pid!
  const ip = (...args: string[]) => runProgram(['ip', ...args])
  const there = (...args: string[]) => runProgram(['nsenter', '-t', `${pid}`, '-n', 'ip', ...args])
  await ip('link', 'set', 'lo', 'up')
  await ip('link', 'add', 'host0', 'type', 'veth', 'peer', 'name', 'out0')
  for (let tries = 0; ; tries++) {
    // `unshare` has its own namespace once it has replaced itself.
    const [mine, its] = await Promise.all(['self', pid].map((each) => runProgram(['readlink', `/proc/${each}/ns/net`])))
    if (mine !== its) break
    if (tries > 500) throw new Error('no second namespace')
    await clock.sleep(10)
  }
  await ip('link', 'set', 'out0', 'netns', `${pid}`)
  await ip('addr', 'add', `${HOST}/24`, 'dev', 'host0')
  await ip('link', 'set', 'host0', 'up')
  await there('link', 'set', 'lo', 'up')
  for (const address of [`${PUBLIC}/24`, ...OUTSIDE.map((each) => `${each}/32`)])
    await there('addr', 'add', address, 'dev', 'out0')
  await there('link', 'set', 'out0', 'up')
  await there('route', 'add', 'default', 'via', HOST)
  await ip('route', 'add', 'default', 'via', PUBLIC)
  const resolvConf = join(process.argv[2]!, 'resolv.conf')
  await writeFile(resolvConf, `nameserver ${DNS}\n`)
  await runProgram(['mount', '--bind', resolvConf, '/etc/resolv.conf'])
  child.stdin.write('go\n')
  await once(child.stdout, 'data')
  return child
}

async function boot(of: typeof world): Promise<Guest> {
  const { driver } = of
  const base = of.spec({ ssh_public_keys: [ssh.public_key] })
  const spec = { ...base, network: { ...base.network, public_ip: of.publicAddress(), ports: [22] } }
  await driver.create(spec)
  await driver.start(spec, clock.now())
  await until(driver, spec, (machine) => machine.ready)
  return { driver, spec }
}

function probes(addresses: string[]): string[] {
  return addresses.flatMap((address) => [`tcp ${address} ${PORT}`, `udp ${address} ${PORT}`])
}

/** The probes that got a response in the guest. */
async function reached({ driver, spec }: Guest, list: string[], first = 'true'): Promise<string[]> {
  const tcp = 'echo | timeout 12 nc -w 10 $2 $3'
  const udp = 'timeout 12 tftp -g -r hello -l - $2 $3'
  const one = `[ -n "$(if [ $1 = tcp ]; then ${tcp}; else ${udp}; fi 2>/dev/null)" ] && echo "$1 $2 $3"`
  const script = `probe() { ${one}; }; ${first}; ${list.map((each) => `probe ${each} &`).join(' ')} wait; true`
  return (await inGuest({ driver, spec }, script)).trim().split('\n').filter(Boolean).sort()
}

async function resolves(guest: Guest): Promise<boolean> {
  return (await inGuest(guest, 'nslookup example.com 2>&1; true')).includes(PUBLIC)
}

async function inGuest({ driver, spec }: Guest, script: string): Promise<string> {
  const ref = { id: spec.id, environment_id: spec.environment_id, now: clock.now() }
  return ssh.run((await driver.get(ref))!, script)
}
