/** One guarded HTTP request (see outbound.ts): connects only to checked addresses, follows redirects hop by hop. */
import type { Readable } from 'node:stream'
import { checkDestination, type Destination, nextHop, OutboundError, type OutboundPolicy } from './outbound.ts'
import { openConnection } from './outbound-connection.ts'

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
  const connection = openConnection(destination, { connectTimeoutMs: request.connectTimeoutMs })
  const { url } = destination
  try {
    return { url, ...(await connection.request(url, request)), close: () => connection.close() }
  } catch (error) {
    connection.close()
    throw error
  }
}
