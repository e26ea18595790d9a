import { createServer } from 'node:net'
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os'
import type { Config } from '../config.ts'
import { StartupError } from '../lib/errors.ts'
import { contains, isAllowedFrom } from '../lib/ip.ts'

/** Interfaces of containers and bridges, which other machines cannot reach. */
const VIRTUAL = /^(docker|br-|veth|virbr|tap|tun|cni|flannel|incus|lxd)/

/**
 * Checks that the address can be listened on, before the slow parts of a start.
 * @returns the port; for port 0, the one that the system chose
 */
export function checkListenAddress(host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', (error: NodeJS.ErrnoException) => reject(listenError(error, host, port)))
    server.listen({ host, port, exclusive: true }, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : port))
    })
  })
}

/** The reason why the address cannot be listened on, in one line. */
export function listenError({ code }: NodeJS.ErrnoException, host: string, port: number): StartupError {
  if (code === 'EADDRINUSE') return new StartupError(`Port ${port} on ${host} is in use. Set another one with --port.`)
  if (code === 'EACCES') return new StartupError(`Port ${port} on ${host} requires root. Set another one with --port.`)
  return new StartupError(`${host} is not an address of this machine (${code}). Set another one with --host.`)
}

/** The default base URL of links. For a wildcard address, it has the address that other machines can most likely reach. */
export function defaultPublicUrl(host: string, port: number, interfaces = networkInterfaces()): string {
  const name = host === '0.0.0.0' || host === '::' ? outsideAddress(interfaces) : host
  return `http://${name.includes(':') ? `[${name}]` : name}:${port}`
}

function outsideAddress(interfaces: NodeJS.Dict<NetworkInterfaceInfo[]>): string {
  const all = Object.entries(interfaces)
    .filter(([name]) => !VIRTUAL.test(name))
    .flatMap(([, addresses]) => addresses ?? [])
    .filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
  return (all.find(({ family }) => family === 'IPv4') ?? all[0])?.address ?? '127.0.0.1'
}

/** The TCP ports on which the control plane listens. */
export function ownPorts({ port, metrics_listen }: Pick<Config, 'port' | 'metrics_listen'>): number[] {
  return metrics_listen === null ? [port] : [port, Number(metrics_listen.slice(metrics_listen.lastIndexOf(':') + 1))]
}

/**
 * Throws a StartupError if a trusted proxy has an IP address of this host while guests are not filtered: a guest connects to
 * the API from such an address, and could claim the IP address of any client.
 */
export function checkProxies(
  trusted: readonly string[],
  unfilteredReason: string | null,
  interfaces = networkInterfaces(),
): void {
  if (unfilteredReason === null) return
  const own = Object.values(interfaces).flatMap((addresses) => addresses ?? [])
  const local = ['127.0.0.1', '::1', ...own.map(({ address }) => address)]
  const proxy = trusted.find(
    (range) => contains('127.0.0.0/8', range) || local.some((address) => isAllowedFrom([range], address)),
  )
  if (proxy === undefined) return
  throw new StartupError(
    `trusted_proxies contains ${proxy}, an IP address of this host, from which guests reach the API: ${unfilteredReason}. Remove it, or run where guests can be filtered (docs/running.md).`,
  )
}

/** The host port for the SSH servers of machines in this range: 2222 if this process cannot listen on port 22. */
export async function sshPort(range: string): Promise<22 | 2222> {
  const address = range.split('/')[0]!.replace(/\d+$/, '254')
  return checkListenAddress(address, 22).then(
    () => 22 as const,
    () => 2222 as const,
  )
}
