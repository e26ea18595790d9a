/**
 * The ports that the uplink of the machines' namespace forwards. The uplink keeps them in memory only, so what it forwards
 * is compared with what the running machines have: a machine that has ended, or an uplink that started again, needs no
 * notice.
 */
import { connect } from 'node:net'
import { atMost, type Clock } from '../../../lib/clock.ts'
import { KeyedLock } from '../../../lib/keyed-lock.ts'
import { type PortForward, TransientError } from '../../driver.ts'
import type { Forward, RunningForwards } from './network.ts'

/** The IPv4 side of the uplink; none of it is public, and it differs from the network of a guest. */
export const UPLINK = { cidr: '100.127.0.0/24', dns: '100.127.0.3', address: '100.127.0.100' }

export type Uplink = {
  /** Adds to each forward a port of the namespace that no other forward has. */
  assign(ports: PortForward[]): Promise<Forward[]>
  /** Forwards exactly these; removes none if they are not complete. Throws TransientError if a port is in use. */
  reconcile(read: () => Promise<RunningForwards>): Promise<void>
}

type Entry = { id: number; host_addr: string; host_port: number; guest_port: number }
type Reply = { entries?: Entry[]; error?: { desc: string } }

/** Ports of the namespace: above those of services, and below those that the kernel gives to outgoing connections. */
const PORTS = { first: 1_024, count: 31_744 }
const REPLY_MS = 2_000
const REPLY_BYTES = 1 << 24

/** @param socket that of the uplink's control interface */
export function openUplink(socket: string, clock: Clock): Uplink {
  const lock = new KeyedLock()
  let last = 0

  const list = async () => (await request(socket, { execute: 'list_hostfwd' }, clock)).entries ?? []

  async function add(entry: Omit<Entry, 'id'>): Promise<void> {
    const reply = await request(socket, { execute: 'add_hostfwd', arguments: { proto: 'tcp', ...entry } }, clock)
    if (reply.error) throw failed(`${entry.host_addr}:${entry.host_port}: ${reply.error.desc}`)
  }

  return {
    assign: (ports) =>
      lock.run('', async () => {
        if (ports.length === 0) return []
        const used = new Set((await list()).map((entry) => entry.guest_port))
        return ports.map((port) => {
          const inner_port = nextFree(last, used)
          last = inner_port
          used.add(inner_port)
          return { ...port, inner_port }
        })
      }),
    reconcile: (read) =>
      lock.run('', async () => {
        const { running, complete } = await read()
        const desired = running.flatMap(({ ip, ports }) => ports.map((port) => entryOf(ip, port)))
        const { missing, surplus } = difference(desired, await list())
        for (const { id } of complete ? surplus : [])
          await request(socket, { execute: 'remove_hostfwd', arguments: { id } }, clock)
        for (const entry of missing) await add(entry)
      }),
  }
}

function entryOf(ip: string, { host_port, inner_port }: Forward): Omit<Entry, 'id'> {
  if (inner_port === undefined) throw new TypeError('a forward without a port of the namespace')
  return { host_addr: ip, host_port, guest_port: inner_port }
}

/** The first port after `last` that is not used. Throws TransientError if all are. */
export function nextFree(last: number, used: ReadonlySet<number>): number {
  for (let step = 1; step <= PORTS.count; step++) {
    const port = PORTS.first + ((Math.max(0, last - PORTS.first) + step) % PORTS.count)
    if (!used.has(port)) return port
  }
  throw failed('all ports of the namespace are in use')
}

/** What is to be added and removed, so that exactly the desired entries are left. */
export function difference(desired: Omit<Entry, 'id'>[], observed: Entry[]) {
  const keyOf = (entry: Omit<Entry, 'id'>) => `${entry.host_addr} ${entry.host_port} ${entry.guest_port}`
  const [wanted, there] = [new Set(desired.map(keyOf)), new Set(observed.map(keyOf))]
  return {
    missing: desired.filter((entry) => !there.has(keyOf(entry))),
    surplus: observed.filter((entry) => !wanted.has(keyOf(entry))),
  }
}

/** One request: the uplink closes the connection after its reply. Throws TransientError. */
async function request(path: string, body: object, clock: Clock): Promise<Reply> {
  const socket = connect(path)
  try {
    const text = await atMost(clock, REPLY_MS, readAll(socket.end(JSON.stringify(body))))
    if (text === undefined) throw new Error('no reply')
    return JSON.parse(text) as Reply
  } catch (error) {
    throw failed(String(error), error)
  } finally {
    socket.destroy()
  }
}

async function readAll(socket: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of socket) {
    bytes += chunk.length
    if (bytes > REPLY_BYTES) throw new Error('the reply is too long')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

const failed = (internal: string, cause?: unknown) =>
  new TransientError('port_forwarding', 'The ports of the machine could not be forwarded.', internal, { cause })
