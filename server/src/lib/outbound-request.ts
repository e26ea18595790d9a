/** One guarded HTTP request (see outbound.ts): connects only to checked addresses, follows redirects hop by hop. */
import { isIP, type LookupFunction, type Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { Agent, buildConnector } from 'undici'
import { checkDestination, type Destination, nextHop, OutboundError, type OutboundPolicy } from './outbound.ts'

export type OutboundRequest = {
  method?: 'GET' | 'HEAD' | 'POST'
  headers?: Record<string, string>
  body?: string | Uint8Array
  /** Ends everything: the name look-up, the connection, the wait for headers, the body. The only overall limit. */
  signal: AbortSignal
  /** TCP and TLS together. */
  connectTimeoutMs: number
  /** Followed for GET and HEAD only; without it a redirect is an answer like any other. */
  maxRedirects?: number
}

export type OutboundResponse = {
  /** After redirects. */
  url: URL
  status: number
  headers: Record<string, string | string[] | undefined>
  body: Readable
  /** Ends the connection. Always call it, also after the body was read. */
  close: () => void
}

/** Sends a request through the guard. Throws OutboundError when it was not made, else what the network threw. */
export async function requestOutbound(
  input: string | URL,
  policy: OutboundPolicy,
  request: OutboundRequest,
): Promise<OutboundResponse> {
  const follows = request.method === 'POST' ? 0 : (request.maxRedirects ?? 0)
  let destination = await checkDestination(input, policy, request.signal)
  for (let hop = 0; ; hop++) {
    const response = await send(destination, request)
    const location = isRedirect(response.status) ? response.headers.location : undefined
    if (follows === 0 || typeof location !== 'string') return response
    response.close()
    if (hop === follows) throw new OutboundError('too_many_redirects', `more than ${follows}`)
    destination = await checkDestination(nextHop(response.url, location, policy.allowHttp), policy, request.signal)
  }
}

const isRedirect = (status: number) => [301, 302, 303, 307, 308].includes(status)

async function send(destination: Destination, request: OutboundRequest): Promise<OutboundResponse> {
  const { url, addresses } = destination
  const connect = buildConnector({
    allowH2: false,
    lookup: pinnedTo(addresses),
    timeout: request.connectTimeoutMs,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: 1000,
  }) as (...args: Parameters<buildConnector.connector>) => Socket
  let socket: Socket | null = null
  // One agent for one destination: no pooled connection can outlive the check that allowed it.
  const agent = new Agent({
    allowH2: false,
    connections: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: (options, callback) => {
      socket = connect(options, callback)
    },
  })
  const end = (error: Error | null) => {
    agent.destroy(error).catch(() => {})
    socket?.destroy()
  }
  // The agent itself would let an aborted request wait for its connection.
  const onAbort = () => end(request.signal.reason)
  request.signal.addEventListener('abort', onAbort, { once: true })
  const close = () => {
    request.signal.removeEventListener('abort', onAbort)
    end(null)
  }
  try {
    const { statusCode, headers, body } = await agent.request({
      origin: url.origin,
      path: url.pathname + url.search,
      method: request.method ?? 'GET',
      headers: request.headers,
      body: request.body,
      signal: request.signal,
    })
    body.on('error', () => {}) // a reader sees it too; without a reader it must not end the process
    return { url, status: statusCode, headers, body, close }
  } catch (error) {
    close()
    throw error
  }
}

/** Name or not, the socket goes to the checked addresses. It is never called for a literal: that is its own address. */
function pinnedTo(addresses: string[]): LookupFunction {
  const entries = addresses.map((address) => ({ address, family: isIP(address) }))
  return (_hostname, options, callback) => {
    if (options.all) callback(null, entries)
    else callback(null, entries[0]!.address, entries[0]!.family)
  }
}
