/** One guarded HTTP request (see outbound.ts): connects only to checked IP addresses and checks each redirect. */
import type { Readable } from 'node:stream'
import { checkDestination, type Destination, nextHop, OutboundError, type OutboundPolicy } from './outbound.ts'
import { openConnection } from './outbound-connection.ts'

export type OutboundRequest = {
  method?: 'GET' | 'HEAD' | 'POST'
  headers?: Record<string, string>
  body?: string | Uint8Array
  /** Aborts name resolution, connection, headers and body. There is no other overall timeout. */
  signal: AbortSignal
  /** For TCP and TLS together. */
  connectTimeoutMs: number
  /** For GET and HEAD only; without it, a redirect is returned as the response. */
  maxRedirects?: number
}

export type OutboundResponse = {
  /** After redirects. */
  url: URL
  status: number
  headers: Record<string, string | string[] | undefined>
  body: Readable
  /** Closes the connection. The caller must call it, also after it has read the body. */
  close: () => void
}

/** Sends a guarded request. Throws OutboundError if it was not sent, otherwise the network error. */
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
  const connection = openConnection(destination, { connectTimeoutMs: request.connectTimeoutMs })
  const { url } = destination
  try {
    return { url, ...(await connection.request(url, request)), close: () => connection.close() }
  } catch (error) {
    connection.close()
    throw error
  }
}
