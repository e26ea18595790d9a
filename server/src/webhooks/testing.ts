/** A receiver on loopback that verifies requests with the npm package `standardwebhooks`. Tests choose its responses. */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after } from 'node:test'
import { Webhook } from 'standardwebhooks'
import { until } from '../testing/until.ts'

export type Received = {
  id: string
  /** The event that the verifier returned. */
  event: any
  headers: IncomingHttpHeaders
  body: string
  /** Milliseconds of the monotonic clock. */
  at: number
}
/** Responds to the n-th request, counted from 1. The default is 204. */
export type Respond = (response: ServerResponse, n: number, request: IncomingMessage) => void

export type Receiver = {
  url: string
  /** Requests with a valid signature, in order of arrival. */
  received: Received[]
  /** The verification errors of the other requests. */
  rejected: string[]
  /** Number of requests so far, valid or not. */
  count(): number
  connections(): number
  respond: Respond
  /** The secrets of the verification; every one must match. */
  secrets: string[]
  /** Waits until `count` valid requests were received. */
  reach(count: number, ms?: number): Promise<void>
  close(): void
}

const OK: Respond = (response) => void response.writeHead(204).end()

export async function createReceiver(respond: Respond = OK): Promise<Receiver> {
  let count = 0
  let connections = 0
  const server = createServer(async (request, response) => {
    count++
    const n = count
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks).toString()
    const { headers } = request
    try {
      let event: unknown = JSON.parse(body)
      for (const secret of receiver.secrets) event = new Webhook(secret).verify(body, headers as Record<string, string>)
      receiver.received.push({ id: String(headers['webhook-id']), event, headers, body, at: performance.now() })
    } catch (error) {
      receiver.rejected.push(String(error))
    }
    receiver.respond(response, n, request)
  })
  server.on('connection', () => {
    connections++
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    received: [],
    rejected: [],
    secrets: [],
    respond,
    count: () => count,
    connections: () => connections,
    async reach(wanted, ms = 60_000) {
      await eventually(() => receiver.received.length >= wanted, `${wanted} events`, ms)
    },
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
  after(() => receiver.close())
  return receiver
}

/** Waits until a condition holds. */
export const eventually = (holds: () => unknown, what: string, ms = 60_000): Promise<void> =>
  until(what, holds, ms / 1000)
