/** A receiver on loopback that verifies what it gets by the npm package `standardwebhooks`, and is told how to behave. */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after } from 'node:test'
import { Webhook } from 'standardwebhooks'
import { until } from '../testing/until.ts'

export type Received = {
  id: string
  /** What the verifier made of it: the event. */
  event: any
  headers: IncomingHttpHeaders
  body: string
  /** Milliseconds, of the clock that only rises. */
  at: number
}
/** How the receiver answers the n-th request, counted from 1; left out, 204. */
export type Behave = (response: ServerResponse, n: number, request: IncomingMessage) => void

export type Receiver = {
  url: string
  /** Those whose signature was right, in the order of their arrival. */
  received: Received[]
  /** Why others were not. */
  refused: string[]
  /** Requests so far, whatever they were. */
  count(): number
  connections(): number
  behave: Behave
  /** Verifies by these secrets from now on: each has to do. */
  secrets: string[]
  /** Waits until so many were received. */
  reach(count: number, ms?: number): Promise<void>
  close(): void
}

const OK: Behave = (response) => void response.writeHead(204).end()

export async function createReceiver(behave: Behave = OK): Promise<Receiver> {
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
      receiver.refused.push(String(error))
    }
    receiver.behave(response, n, request)
  })
  server.on('connection', () => {
    connections++
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    ...{ received: [], refused: [], secrets: [], behave, count: () => count, connections: () => connections },
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

/** Waits until something holds. */
export const eventually = (holds: () => unknown, what: string, ms = 60_000): Promise<void> =>
  until(what, holds, ms / 1000)
