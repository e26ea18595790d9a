/**
 * Real guests of three installations, and what they reach. Run by testing-egress.ts, as root or as another user; prints one
 * JSON object.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { systemClock as clock } from '../../lib/clock.ts'
import { commandLine, identify, type ProcessIdentity } from '../../lib/processes.ts'
import type { MachineSpec } from '../driver.ts'
import type { QemuDriver } from './driver.ts'
import { unfiltered } from './egress.ts'
import { tableOf } from './egress-rules.ts'
import { instancesFolder } from './machine-files.ts'
import { findMachineProcesses, killProcess } from './process.ts'
import { runProgram } from './run-program.ts'
import { makeWorld, sshKey, until, type World } from './testing.ts'
import { API_PORT, GATEWAY, HOST, OUTSIDE, PORT, PUBLIC } from './testing-egress-addresses.ts'

const allow = ['10.9.0.7', '10.9.0.7/32', '127.0.0.9/32', '127.0.0.1']
const world = await makeWorld({ refused_ports: [API_PORT], guest_allow: allow })
const strict = await makeWorld({ refused_ports: [API_PORT] })
const open = await makeWorld({ egress: unfiltered('a test') })
const ssh = await sshKey(dirname(world.options.data_dir))
try {
  process.stdout.write(JSON.stringify(await observations()))
} finally {
  for (const each of [world, strict, open]) await each.remove()
}

async function observations() {
  const [allowed, tenant, unprotected] = await Promise.all(
    [world, strict, open].map(boot) as [Promise<Guest>, Promise<Guest>, Promise<Guest>],
  )
  const neighbour = allowed.spec.network.public_ip!

  const result: Record<string, unknown> = {}
  const first = probes([...OUTSIDE, PUBLIC, GATEWAY, HOST])
  const api = [`tcp ${GATEWAY} ${API_PORT}`, `tcp ${HOST} ${API_PORT}`]
  const all = [...first, ...api]
  const seen = await Promise.all([unprotected, tenant, allowed].map((guest) => reached(guest, all)))
  ;[result.unfiltered, result.filtered, result.operator_allows] = seen
  result.dns = await resolves(tenant)
  // From here on no control plane runs, so nothing sets the rules again by itself.
  await Promise.all([strict, world, open].map((each) => each.driver.close()))
  result.stopped = await reached(tenant, all)

  // The guest has no loopback interface of its own, and sends everything to the gateway of its choice.
  const reroute = [
    'ip link set lo down',
    'for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$f; done',
    `for ip in 127.0.0.2 ${neighbour} ${OUTSIDE.join(' ')}; do ip route replace $ip via ${GATEWAY} dev $(cat /run/dhcp-cards); done`,
  ].join('; ')
  const second = [...probes(['127.0.0.2', ...OUTSIDE]), `tcp ${neighbour} 22`]
  const rerouted = await Promise.all([unprotected, tenant].map((guest) => reached(guest, second, reroute)))
  ;[result.rerouted_unfiltered, result.rerouted] = rerouted

  const enter = strict.options.egress.guest_network?.enter() ?? []
  await runProgram([...enter, 'nft', 'delete', 'table', 'inet', tableOf(strict.options.installation_id)])
  result.flushed = await reached(tenant, [`tcp 10.9.0.7 ${PORT}`])
  result.set_again = [await strict.options.egress.ensure(), await strict.options.egress.ensure()]
  result.filtered_again = await reached(tenant, [`tcp 10.9.0.7 ${PORT}`])
  if (strict.options.egress.guest_network) result.namespace = await inNamespace(strict, tenant)
  return result
}

type Guest = { driver: QemuDriver; spec: MachineSpec }

async function boot(of: Pick<World, 'driver' | 'spec' | 'publicAddress'>): Promise<Guest> {
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

/** What holds where machines run in a namespace, whose two processes are killed and started again. */
async function inNamespace(of: World, guest: Guest) {
  const [machine] = await findMachineProcesses(instancesFolder(of.options))
  const status = readFileSync(`/proc/${machine!.process.pid}/status`, 'utf8')
  const driver = await of.reopen()
  const before = helpersOf(of)
  for (const each of before) await killProcess(each, 5_000, clock)
  const second = await boot({ ...of, driver })
  return {
    capabilities: /^CapBnd:\s*(\w+)$/m.exec(status)?.[1],
    separate: readlinkSync('/proc/self/ns/net') !== readlinkSync(`/proc/${machine!.process.pid}/ns/net`),
    killed: before.length,
    helpers: helpersOf(of).length,
    private: (
      await inGuest({ driver, spec: guest.spec }, `ping -c 1 -W 10 ${second.spec.network.private_ip}; true`)
    ).includes(' 0% packet loss'),
    reached: await Promise.all([
      reached({ driver, spec: guest.spec }, probes([...OUTSIDE, PUBLIC, HOST])),
      reached(second, probes([...OUTSIDE, PUBLIC, HOST])),
    ]),
  }
}

/** The holder and the uplink of a namespace. */
function helpersOf({ options }: World): ProcessIdentity[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => commandLine(pid).some((word) => word.includes(`${options.run_dir}/network/`)))
    .flatMap((pid) => identify(pid) ?? [])
}
