import { createServer } from 'node:net'
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os'
import { StartupError } from '../lib/errors.ts'

/** Interfaces of containers and bridges, by which other machines do not reach us. */
const VIRTUAL = /^(docker|br-|veth|virbr|tap|tun|cni|flannel|incus|lxd)/

/**
 * Makes sure, before anything slow begins, that we can listen there.
 * @returns the port, chosen by the system when 0 was given
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

/** Why we cannot listen there, in one line for the operator. */
export function listenError({ code }: NodeJS.ErrnoException, host: string, port: number): StartupError {
  if (code === 'EADDRINUSE') return new StartupError(`Port ${port} of ${host} is taken. Give another one by --port.`)
  if (code === 'EACCES') return new StartupError(`Port ${port} of ${host} needs root. Give another one by --port.`)
  return new StartupError(`${host} is no address of this machine (${code}). Give another one by --host.`)
}

/** The base of links when none is configured. All addresses: the one by which other machines most likely reach us. */
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

/** Where ssh servers of machines will be reached in this range: 2222 where the host does not let us have port 22. */
export async function sshPort(range: string): Promise<22 | 2222> {
  const address = range.split('/')[0]!.replace(/\d+$/, '254')
  return checkListenAddress(address, 22).then(
    () => 22 as const,
    () => 2222 as const,
  )
}
