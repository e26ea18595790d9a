/**
 * One connection to a checked destination (see outbound.ts): the socket connects only to the IP addresses that were
 * checked, whatever the name resolves to later.
 */
import { isIP, type LookupFunction, type Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { Agent, buildConnector, errors } from 'undici'
import type { Destination } from './outbound.ts'
import { openTunnel } from './outbound-tunnel.ts'

export type ConnectionOptions = {
  /** For TCP and TLS together. */
  connectTimeoutMs: number
  /** The operator's HTTP proxy, through which the checked IP address is reached. */
  proxy?: { host: string; port: number } | undefined
  /** Called when a socket starts to connect, when the TCP connection is established, and when it is ready (after TLS). */
  observe?: (phase: 'connecting' | 'reached' | 'ready') => void
}

export type ConnectionRequest = {
  method?: 'GET' | 'HEAD' | 'POST'
  headers?: Record<string, string>
  body?: string | Uint8Array
  /** Closes the connection and aborts its request. */
  signal: AbortSignal
}

export type ConnectionResponse = {
  status: number
  headers: Record<string, string | string[] | undefined>
  body: Readable
}

/** Sends one request at a time; the next one may follow when the response body has been read completely. */
export type OutboundConnection = {
  /** Throws the network error or the signal's reason; the caller must then close the connection. */
  request(url: URL, request: ConnectionRequest): Promise<ConnectionResponse>
  close(): void
}

/** The type of `openConnection`, for test doubles. */
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
  let detachAbort = () => {}
  // One agent per destination: no pooled connection can outlive its check.
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
    detachAbort()
    agent.destroy(error).catch(() => {})
    socket?.destroy()
  }

  return {
    async request(url, { signal, ...request }) {
      detachAbort()
      // The agent does not abort a request that waits for its connection.
      const onAbort = () => end(signal.reason)
      signal.addEventListener('abort', onAbort, { once: true })
      detachAbort = () => signal.removeEventListener('abort', onAbort)
      const { statusCode, headers, body } = await agent.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: request.method ?? 'GET',
        headers: request.headers,
        body: request.body,
        signal,
      })
      body.on('error', () => {}) // without a reader, the error must not end the process
      return { status: statusCode, headers, body }
    },
    close: () => end(null),
  }
}

/** Whether the response was not valid HTTP or had too many headers. */
export function isProtocolError(error: unknown): boolean {
  return error instanceof errors.HTTPParserError || error instanceof errors.HeadersOverflowError
}

/** Resolves every name to the checked IP addresses. Node does not call it for IP literals. */
function pinnedTo(addresses: string[]): LookupFunction {
  const entries = addresses.map((address) => ({ address, family: isIP(address) }))
  return (_hostname, options, callback) => {
    if (options.all) callback(null, entries)
    else callback(null, entries[0]!.address, entries[0]!.family)
  }
}
