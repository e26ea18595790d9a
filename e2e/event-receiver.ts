/** A webhook receiver that stores deliveries and compares them with the events in the database. */
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Sql } from '../server/src/db/database.ts'
import { until } from '../server/src/testing/until.ts'
import type { ControlPlane } from './control-plane.ts'

type Received = { body: string; deliveries: number }

export class EventReceiver {
  readonly #server: Server
  readonly #received = new Map<string, Received>()
  /** The webhooks by environment: the sequence number after which they receive events, and their secrets. */
  readonly #endpoints: { environment: string; after: number; secret: string }[] = []
  readonly #findings: string[] = []

  private constructor() {
    this.#server = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request) body += chunk
      this.#receive(request.headers as Record<string, string>, body)
      response.writeHead(204).end()
    })
  }

  /** Listens, and creates a webhook for all events in both environments. */
  static async start(plane: ControlPlane, owner: Sql): Promise<EventReceiver> {
    const receiver = new EventReceiver()
    await new Promise<void>((resolve) => receiver.#server.listen(0, '127.0.0.1', resolve))
    const { port } = receiver.#server.address() as AddressInfo
    const { live_key, test_key } = plane.credentials
    for (const [mode, key] of Object.entries({ live: live_key, test: test_key })) {
      const url = `http://127.0.0.1:${port}/${mode}`
      const { status, body } = await plane.call('POST', '/v2/webhooks', { url, events: ['*'] }, key)
      assert.equal(status, 201, JSON.stringify(body))
      const [head] = await owner<{ id: string; sequence: number }[]>`
        select e.id, h.sequence from environments e join environment_heads h on h.environment_id = e.id where mode = ${mode}`
      receiver.#endpoints.push({ environment: head!.id, after: head!.sequence, secret: body.secret })
    }
    return receiver
  }

  #receive(headers: Record<string, string>, body: string): void {
    const { 'webhook-id': id, 'webhook-timestamp': time, 'webhook-signature': signature } = headers
    const { id: event } = JSON.parse(body)
    const isSigned = this.#endpoints.some(({ secret }) => {
      const key = Buffer.from(secret.slice('whsec_'.length), 'base64')
      const mac = createHmac('sha256', key).update(`${id}.${time}.${body}`).digest('base64')
      return signature?.split(' ').includes(`v1,${mac}`)
    })
    const known = this.#received.get(event)
    if (!isSigned) this.#findings.push(`${event}: the signature is wrong`)
    if (known && known.body !== body) this.#findings.push(`${event}: two deliveries have different bytes`)
    this.#received.set(event, { body, deliveries: (known?.deliveries ?? 0) + 1 })
  }

  /** Waits until every event was delivered. Returns the faults and the number of repeated events. */
  async compare(owner: Sql): Promise<{ findings: string[]; events: number; repeated: number }> {
    const due = async () => {
      const all = await Promise.all(
        this.#endpoints.map(
          ({ environment, after }) => owner<{ id: string }[]>`
            select id from events where environment_id = ${environment} and sequence > ${after}`,
        ),
      )
      return all.flatMap((rows) => rows.map(({ id }) => id))
    }
    const missing = async () => (await due()).filter((id) => !this.#received.has(id))
    await until('every event was delivered', async () => (await missing()).length === 0, 180).catch(async () => {
      for (const id of await missing()) this.#findings.push(`${id}: was never delivered`)
    })
    const ids = [...this.#received.keys()]
    const rows = await owner<{ id: string; sequence: number; type: string }[]>`
      select id, sequence, type from events where id = any(${ids})`
    const stored = new Map(rows.map((row) => [row.id, row]))
    for (const [id, { body }] of this.#received) {
      const { sequence, type } = JSON.parse(body)
      const row = stored.get(id)
      if (!row) this.#findings.push(`${id}: was delivered but does not exist`)
      else if (row.sequence !== sequence || row.type !== type)
        this.#findings.push(`${id}: differs from the stored event`)
    }
    const repeated = [...this.#received.values()].filter(({ deliveries }) => deliveries > 1).length
    return { findings: this.#findings, events: ids.length, repeated }
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}
