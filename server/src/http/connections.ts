/**
 * Limits of the number of connections. Each holds a descriptor of the process, and without free descriptors neither the
 * database nor the machines can be reached. A connection beyond a limit is closed before anything is read from it.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'

/** For the database, machines, receivers, imports and files. */
const RESERVED = 200
const LARGEST_SHARE = 0.6
const LEAST = 16

export type ConnectionLimits = { total: number; per_address: number }

/** @param descriptors how many the process may have open */
export function connectionLimits(descriptors: number): ConnectionLimits {
  const total = Math.max(LEAST, Math.floor(Math.min(descriptors - RESERVED, descriptors * LARGEST_SHARE)))
  return { total, per_address: Math.ceil(total / 2) }
}

/**
 * Applies the limits to a server.
 * @param isProxy whether an IP address is that of a trusted proxy, whose connections are those of many clients
 * @param refused called for each connection that is closed, with the number of open ones
 */
export function limitConnections(
  server: Server,
  limits: ConnectionLimits,
  isProxy: (address: string) => boolean,
  refused: (address: string, open: number) => void,
): void {
  const open = new Map<string, number>()
  let total = 0
  server.prependListener('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? ''
    const count = open.get(address) ?? 0
    if (total >= limits.total || (count >= limits.per_address && !isProxy(address))) {
      refused(address, total)
      socket.destroy()
      return
    }
    total++
    open.set(address, count + 1)
    socket.once('close', () => {
      total--
      const left = open.get(address)! - 1
      if (left === 0) open.delete(address)
      else open.set(address, left)
    })
  })
}
