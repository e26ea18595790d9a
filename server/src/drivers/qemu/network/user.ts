/**
 * A network that needs no privileges. The first network device is QEMU's user-mode stack: it connects the guest to the
 * internet, and the guest's ports are forwarded from a loopback address of the host that no other machine has. The second
 * device is the private network: guests of a segment exchange frames over a multicast port on the loopback interface.
 *
 * Where machines run in a namespace of their own (guest-network.ts), QEMU forwards from a port of the namespace, and the
 * uplink of the namespace from the port of the host to that port (uplink.ts).
 *
 * Limits: the guest can reach what the host reaches, and the host's 127.0.0.1 through its gateway, unless egress.ts filters
 * that (QEMU has no option for it); any local process can join a multicast port.
 */
import { createHash } from 'node:crypto'
import { createServer, isIPv4 } from 'node:net'
import { AddressInUseError, InvalidSpecError, type MachineSpec, type PortForward } from '../../driver.ts'
import type { QmpClient } from '../qmp.ts'
import type { Forward, Network, NetworkDevices } from './network.ts'
import { UPLINK, type Uplink } from './uplink.ts'

/** Carrier-grade NAT addresses (RFC 6598), which cannot collide with a tenant's subnet of RFC 1918 addresses. */
const PUBLIC_SIDE = { net: '100.96.0.0/24', host: '100.96.0.2', dns: '100.96.0.3', dhcpstart: '100.96.0.15' }
const PUBLIC_NIC = 'public'

/** Host ports for standard ports that are unavailable: below 1024 without root, or in use on all addresses. */
const FALLBACK_PORTS: Record<number, number> = { 22: 2222, 80: 8080, 443: 8443 }
const HMP_DEADLINE_MS = 2000

export type MulticastOptions = { multicast_group: string; multicast_port_base: number }

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/

/** A user-mode network with multicast segments. @param uplink that of the namespace of the machines, if they have one */
export function userNetwork(options: MulticastOptions, uplink: Uplink | null): Network {
  const plan = async (ip: string | null, ports: number[]): Promise<Forward[]> => {
    const planned = await planPorts(ip, ports)
    return uplink ? uplink.assign(planned) : planned
  }
  return {
    plan: ({ network }) => plan(network.public_ip, network.ports),
    devices: (spec, ports) => userDevices(spec, ports, options),
    add: (control, ip, ports) => addForwards(control, ip, ports, plan),
    remove: removeForwards,
    reconcile: async (read) => uplink?.reconcile(read),
  }
}

/** The MAC address of the first device: fixed per machine, locally administered, different from that of the second. */
export function publicMac(id: string, privateMac: string): string {
  const bytes = createHash('sha256').update(id).digest().subarray(0, 3)
  const mac = ['52:55:0a', ...[...bytes].map((byte) => byte.toString(16).padStart(2, '0'))].join(':')
  return mac === privateMac ? mac.replace(/^52/, '56') : mac
}

/** Throws InvalidSpecError for malformed addresses, the only strings of a network that are part of a command line. */
export function checkNetwork(network: MachineSpec['network']): void {
  check(MAC.test(network.mac) && !isGroupAddress(network.mac), 'mac', network.mac)
  check(isIPv4(network.private_ip), 'private_ip', network.private_ip)
  check(
    Number.isInteger(network.prefix_length) && network.prefix_length >= 8 && network.prefix_length <= 30,
    'prefix_length',
    network.prefix_length,
  )
  check(network.public_ip === null || isIPv4(network.public_ip), 'public_ip', network.public_ip)
  for (const port of network.ports) checkPort(port)
}

const isGroupAddress = (mac: string) => (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1

function checkPort(port: number): void {
  check(Number.isInteger(port) && port >= 1 && port <= 65535, 'ports', port)
}

function check(condition: boolean, field: string, value: unknown): void {
  if (condition) return
  const internal = `illegal network.${field}: ${JSON.stringify(value)?.slice(0, 200)}`
  throw new InvalidSpecError('invalid_spec', `The machine cannot be created: network.${field} is not valid.`, internal)
}

function userDevices(spec: MachineSpec, ports: Forward[], options: MulticastOptions): NetworkDevices {
  const { network } = spec
  checkNetwork(network)
  const port = options.multicast_port_base + network.segment
  check(Number.isInteger(network.segment) && network.segment >= 0 && port <= 65535, 'segment', network.segment)
  const hostfwd =
    network.public_ip === null ? [] : ports.map((each) => ({ str: forwardRule(network.public_ip!, each) }))
  const mcast = `${options.multicast_group}:${port}`
  const nic = (netdev: string, mac: string) => ({ driver: 'virtio-net-pci', netdev, mac, romfile: '' })
  return {
    netdevs: [
      { type: 'user', id: PUBLIC_NIC, ipv6: false, ...PUBLIC_SIDE, ...(hostfwd.length > 0 ? { hostfwd } : {}) },
      { type: 'socket', id: 'private', mcast, localaddr: '127.0.0.1' },
    ],
    devices: [nic(PUBLIC_NIC, publicMac(spec.id, network.mac)), nic('private', network.mac)],
  }
}

/** Where QEMU listens for connections to a forwarded port. */
function listener(ip: string, { host_port, inner_port }: Pick<Forward, 'host_port' | 'inner_port'>): string {
  check(isIPv4(ip), 'public_ip', ip)
  checkPort(inner_port ?? host_port)
  return inner_port === undefined ? `tcp:${ip}:${host_port}` : `tcp:${UPLINK.address}:${inner_port}`
}

const forwardRule = (ip: string, port: Forward) => {
  checkPort(port.guest_port)
  return `${listener(ip, port)}-:${port.guest_port}`
}

/** Chooses a host port for each guest port by binding it, with the privileges that QEMU will have. */
export async function planPorts(ip: string | null, ports: number[]): Promise<PortForward[]> {
  if (ip === null) return []
  const planned: PortForward[] = []
  const taken = (port: number) => planned.some((each) => each.host_port === port)
  // Ports with a fallback come last, so that a fallback never takes a requested port.
  const order = [...new Set(ports)].sort((a, b) => Number(a in FALLBACK_PORTS) - Number(b in FALLBACK_PORTS) || a - b)
  for (const guest_port of order) {
    const choices = [guest_port, FALLBACK_PORTS[guest_port]].filter((port) => port !== undefined && !taken(port))
    planned.push({ guest_port, host_port: await firstFree(ip, choices as number[], guest_port) })
  }
  return planned.sort((a, b) => a.guest_port - b.guest_port)
}

async function firstFree(ip: string, choices: number[], guestPort: number): Promise<number> {
  for (const port of choices) {
    const code = await tryBind(ip, port)
    if (code === null) return port
    if (code !== 'EADDRINUSE' && code !== 'EACCES')
      throw new InvalidSpecError(
        'address_unavailable',
        `The public IP address ${ip} does not belong to this host.`,
        `bind: ${code}`,
      )
  }
  throw addressInUse(ip, choices.at(-1) ?? guestPort)
}

function addressInUse(ip: string, port: number, internal?: string) {
  return new AddressInUseError('address_in_use', `Port ${port} of ${ip} is already in use on the host.`, internal)
}

function tryBind(ip: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'unknown'))
    server.listen({ host: ip, port, exclusive: true }, () => server.close(() => resolve(null)))
  })
}

async function addForwards(
  control: QmpClient,
  ip: string,
  guestPorts: number[],
  plan: (ip: string, ports: number[]) => Promise<Forward[]>,
): Promise<Forward[]> {
  // Forwards of an interrupted attempt are removed first: their ports would appear to be in use.
  const hostPorts = guestPorts.flatMap((port) => [port, FALLBACK_PORTS[port]]).filter((port) => port !== undefined)
  const possible = hostPorts.map((host_port) => ({ host_port }))
  await removeForwards(control, ip, possible)
  const ports: Forward[] = []
  try {
    for (const port of await plan(ip, guestPorts)) {
      const reply = await human(control, `hostfwd_add ${PUBLIC_NIC} ${forwardRule(ip, port)}`)
      if (reply !== '') throw addressInUse(ip, port.host_port, reply)
      ports.push(port)
    }
    return ports
  } catch (error) {
    await removeForwards(control, ip, [...possible, ...ports])
    throw error
  }
}

async function removeForwards(
  control: QmpClient,
  ip: string,
  ports: Pick<Forward, 'host_port' | 'inner_port'>[],
): Promise<void> {
  for (const port of ports) await human(control, `hostfwd_remove ${PUBLIC_NIC} ${listener(ip, port)}`)
}

async function human(control: QmpClient, line: string): Promise<string> {
  const reply = await control.execute('human-monitor-command', { 'command-line': line }, HMP_DEADLINE_MS)
  return typeof reply === 'string' ? reply.trim() : ''
}
