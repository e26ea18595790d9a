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

/** What has been taken: keep it in your database, in the transaction that does what follows from the event. */
const seen = new Set<string>()
const versions = new Map<string, number>()

function verify(headers: IncomingHttpHeaders, body: Buffer): boolean {
  const { 'webhook-id': id, 'webhook-timestamp': at, 'webhook-signature': signatures } = headers
  if (typeof id !== 'string' || typeof at !== 'string' || typeof signatures !== 'string') return false
  if (!(Math.abs(Date.now() / 1000 - Number(at)) <= TOLERANCE_SECONDS)) return false
  const wanted = createHmac('sha256', secret).update(`${id}.${at}.`).update(body).digest()
  // Two signatures while a secret is rotated: one has to fit.
  return signatures.split(' ').some((entry) => {
    const [version, signature = ''] = entry.split(',')
    const given = Buffer.from(signature, 'base64')
    return version === 'v1' && given.length === wanted.length && timingSafeEqual(given, wanted)
  })
}

function take(event: Event): void {
  const { object } = event.data
  // At least once, in any order: an event that was taken, and a state that is older than the known one, are passed over.
  const isNews = !seen.has(event.id) && object.version > (versions.get(object.id) ?? 0)
  seen.add(event.id)
  if (isNews) versions.set(object.id, object.version)
  process.stdout.write(
    `${isNews ? 'new ' : 'old '} ${event.sequence} ${event.type} ${object.id} ${object.status ?? ''}\n`,
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
  // The bytes as they came: parsing and writing them again would change them.
  const body = Buffer.concat(chunks)
  if (!verify(request.headers, body)) return void response.writeHead(401).end()
  take(JSON.parse(body.toString()) as Event)
  // Answer within 15 seconds; work that takes longer is done afterwards.
  response.writeHead(204).end()
})
server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => process.stdout.write('ready\n'))
