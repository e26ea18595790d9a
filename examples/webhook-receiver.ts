/**
 * Receives webhooks: `WEBHOOK_SECRET=whsec_… PORT=3000 node webhook-receiver.ts`, without dependencies. With the npm package
 * `standardwebhooks`, `verify` is `new Webhook(secret).verify(body, headers)`.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingHttpHeaders } from 'node:http'

type Event = {
  id: string
  type: string
  sequence: number
  data: { object: { object: string; id: string; version: number; status?: string } }
}

const secret = Buffer.from((process.env.WEBHOOK_SECRET ?? '').replace('whsec_', ''), 'base64')
const TOLERANCE_SECONDS = 300
const MAX_BYTES = 256 * 1024

/** Handled events. Keep them in your database, and write them in the transaction that handles the event. */
const seen = new Set<string>()
const versions = new Map<string, number>()

function verify(headers: IncomingHttpHeaders, body: Buffer): boolean {
  const { 'webhook-id': id, 'webhook-timestamp': at, 'webhook-signature': signatures } = headers
  if (typeof id !== 'string' || typeof at !== 'string' || typeof signatures !== 'string') return false
  if (!(Math.abs(Date.now() / 1000 - Number(at)) <= TOLERANCE_SECONDS)) return false
  const expected = createHmac('sha256', secret).update(`${id}.${at}.`).update(body).digest()
  // There are two signatures while a secret is rotated; one must match.
  return signatures.split(' ').some((entry) => {
    const [version, signature = ''] = entry.split(',')
    const given = Buffer.from(signature, 'base64')
    return version === 'v1' && given.length === expected.length && timingSafeEqual(given, expected)
  })
}

function handle(event: Event): void {
  const { object } = event.data
  // Events can arrive twice and out of order: ignore handled events and versions that are not newer.
  const isNew = !seen.has(event.id) && object.version > (versions.get(object.id) ?? 0)
  seen.add(event.id)
  if (isNew) versions.set(object.id, object.version)
  process.stdout.write(
    `${isNew ? 'new ' : 'old '} ${event.sequence} ${event.type} ${object.id} ${object.status ?? ''}\n`,
  )
}

const server = createServer(async (request, response) => {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > MAX_BYTES) return void request.destroy()
    chunks.push(chunk)
  }
  // Verify the bytes as received; serializing the parsed body could change them.
  const body = Buffer.concat(chunks)
  if (!verify(request.headers, body)) return void response.writeHead(401).end()
  handle(JSON.parse(body.toString()) as Event)
  // Respond within 15 seconds; do longer work after the response.
  response.writeHead(204).end()
})
server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => process.stdout.write('ready\n'))
