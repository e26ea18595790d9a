/**
 * One connection to a checked destination (see outbound.ts), and to nothing else: the socket goes to the addresses that
 * were checked, whatever the name says by now.
 */
import { isIP, type LookupFunction, type Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { Agent, buildConnector, errors } from 'undici'
import type { Destination } from './outbound.ts'
import { openTunnel } from './outbound-tunnel.ts'

export type ConnectionOptions = {
  /** TCP and TLS together. */
  connectTimeoutMs: number
  /** `host:port` of an HTTP proxy of the operator, through which the checked address is reached. */
  proxy?: { host: string; port: number } | undefined
  /** Told when a socket begins to connect, when it has reached the other side, and when it can be used (after TLS). */
  observe?: (phase: 'connecting' | 'reached' | 'ready') => void
}

export type ConnectionRequest = {
  method?: 'GET' | 'HEAD' | 'POST'
  headers?: Record<string, string>
  body?: string | Uint8Array
  /** Ends the connection with everything on it. */
  signal: AbortSignal
}

export type ConnectionResponse = {
  status: number
  headers: Record<string, string | string[] | undefined>
  body: Readable
}

/** Takes one request at a time; the next one may follow when the body was read to its end. */
export type OutboundConnection = {
  /** Throws what the network threw, or the signal's reason. Close the connection then. */
  request(url: URL, request: ConnectionRequest): Promise<ConnectionResponse>
  close(): void
}

/** As `openConnection` does it. */
export type OpenConnection = (destination: Destination, options: ConnectionOptions) => OutboundConnection

type Connect = (...args: Parameters<buildConnector.connector>) => Socket

export const openConnection: OpenConnection = (destination, options) => {
  const { addresses } = destination
  const { connectTimeoutMs, proxy, observe } = options
  const connect = buildConnector({
    allowH2: false,
    lookup: pinnedTo(addresses),
    timeout: connectTimeoutMs,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: 1000,
  }) as unknown as Connect
  let socket: Socket | null = null
  let letGo = () => {}
  // One agent for one destination: no pooled connection can outlive the check that allowed it.
  const agent = new Agent({
    allowH2: false,
    connections: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: (target, callback) => {
      observe?.('connecting')
      const done: typeof callback = (...result) => {
        if (result[0] === null) observe?.('ready')
        callback(...result)
      }
      if (proxy) {
        const port = Number(target.port || (target.protocol === 'https:' ? 443 : 80))
        socket = openTunnel(proxy, { address: addresses[0]!, port }, connectTimeoutMs, (error, tunnel) => {
          if (error) return done(error, null)
          observe?.('reached')
          if (target.protocol !== 'https:') return done(null, tunnel)
          socket = connect({ ...target, httpSocket: tunnel }, done)
        })
        return
      }
      socket = connect(target, done)
      socket.once('connect', () => observe?.('reached'))
    },
  })
  const end = (error: Error | null) => {
    letGo()
    agent.destroy(error).catch(() => {})
    socket?.destroy()
  }

  return {
    async request(url, { signal, ...request }) {
      letGo()
      // The agent itself would let an aborted request wait for its connection.
      const onAbort = () => end(signal.reason)
      signal.addEventListener('abort', onAbort, { once: true })
      letGo = () => signal.removeEventListener('abort', onAbort)
      const { statusCode, headers, body } = await agent.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: request.method ?? 'GET',
        headers: request.headers,
        body: request.body,
        signal,
      })
      body.on('error', () => {}) // a reader sees it too; without a reader it must not end the process
      return { status: statusCode, headers, body }
    },
    close: () => end(null),
  }
}

/** Whether what came back was no HTTP, or too much of it. */
export function isProtocolError(error: unknown): boolean {
  return error instanceof errors.HTTPParserError || error instanceof errors.HeadersOverflowError
}

/** Name or not, the socket goes to the checked addresses. It is never called for a literal: that is its own address. */
function pinnedTo(addresses: string[]): LookupFunction {
  const entries = addresses.map((address) => ({ address, family: isIP(address) }))
  return (_hostname, options, callback) => {
    if (options.all) callback(null, entries)
    else callback(null, entries[0]!.address, entries[0]!.family)
  }
}
