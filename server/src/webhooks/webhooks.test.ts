/** Webhooks over HTTP with real receivers. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { Webhook } from 'standardwebhooks'
import { CANARY, secretsIn } from '../db/testing-canary.ts'
import { type Call, caller } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { systemClock } from '../lib/clock.ts'
import { SCHEDULE_SECONDS } from './retry-schedule.ts'
import { createReceiver, eventually, type Receiver } from './testing.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())
const call: World['callTest'] = (...args) => world.callTest(...args)

/** Creates a webhook of this receiver, and gives the receiver its secret. */
async function hook(receiver: Receiver, fields: object = {}): Promise<any> {
  const { status, body } = await call('POST', '/v2/webhooks', { url: receiver.url, events: ['instance.*'], ...fields })
  assert.equal(status, 201, JSON.stringify(body))
  receiver.secrets = [body.secret]
  return body
}
const deliveries = async (id: string, query = ''): Promise<any[]> =>
  (await call('GET', `/v2/webhooks/${id}/deliveries?limit=100${query}`)).body.data
const detail = async (id: string, delivery: string): Promise<any> =>
  (await call('GET', `/v2/webhooks/${id}/deliveries/${delivery}`)).body

/** The attempts of a webhook's only delivery. */
const attemptsOf = async (id: string): Promise<any[]> => {
  const [delivery] = await deliveries(id)
  return delivery ? (await detail(id, delivery.id)).attempts : []
}
/** Emits one event: creates an instance. */
const emit = async (): Promise<any> => (await call('POST', '/v2/instances', BODY)).body
/** Deletes a webhook, so that it does not receive events of the next test. */
const end = (id: string) => call('DELETE', `/v2/webhooks/${id}`)
const status = (code: number, headers: Record<string, string> = {}): Receiver['respond'] => {
  return (response) => void response.writeHead(code, headers).end(`I say ${code}`)
}
const created = { events: ['instance.created'] }

describe('a webhook', { timeout: 240_000 }, () => {
  test('receives each event once, signed, with the stored bytes; the trace ends with its 204', async () => {
    const receiver = await createReceiver()
    const { id, secret } = await hook(receiver, created)
    assert.match(secret, /^whsec_[A-Za-z0-9+/]{43}=$/)
    const made = await call('POST', '/v2/instances', BODY, { 'x-request-id': 'traced' })
    await receiver.reach(1)
    const [first] = receiver.received
    assert.equal(first!.event.type, 'instance.created')
    assert.equal(first!.event.data.object.id, made.body.id)
    assert.equal(first!.event.request_id, 'traced')
    assert.equal(first!.id, first!.event.id)
    assert.equal(first!.headers['content-type'], 'application/json')
    assert.match(first!.headers['user-agent']!, /^CloudNexus-Webhooks\//)
    const age = Date.now() / 1000 - Number(first!.headers['webhook-timestamp'])
    assert.ok(Math.abs(age) < 60, 'real time')
    await eventually(async () => (await deliveries(id))[0]?.status === 'succeeded', 'a success')
    const [delivery] = await deliveries(id)
    const { attempts, ...rest } = await detail(id, delivery.id)
    assert.deepEqual(rest, delivery)
    const { number, error, response_status, request_headers, connect_ms, first_byte_ms } = attempts[0]
    assert.deepEqual([attempts.length, number, error, response_status], [1, 1, null, 204])
    assert.ok(connect_ms > 0 && first_byte_ms > 0)
    assert.deepEqual(Object.keys(request_headers).sort(), [
      ...['content-type', 'user-agent', 'webhook-id', 'webhook-timestamp'],
    ])
    const { body } = await call('GET', '/v2/requests/traced')
    const spans = body.spans.filter((span: any) => span.kind === 'delivery')
    assert.equal(spans.length, 1)
    assert.deepEqual([spans[0].parent, spans[0].status, spans[0].detail.status], ['instance.created', 'ok', 204])
    assert.equal(spans[0].detail.delivery_id, delivery.id)
    await end(id)
  })

  test('supports create, list, conditional get, update and delete', async () => {
    const receiver = await createReceiver()
    const key = { 'idempotency-key': 'once' }
    const body = { url: receiver.url, events: ['instance.*', 'webhook.disabled'], description: 'shop' }
    const made = await call('POST', '/v2/webhooks', body, key)
    assert.deepEqual([made.status, made.headers['cache-control']], [201, 'no-store'])
    assert.equal(made.headers.location, `http://localhost:8080/v2/webhooks/${made.body.id}`)
    const again = await call('POST', '/v2/webhooks', body, key)
    const { secret, ...shown } = made.body
    assert.deepEqual(again.body, { ...shown, secret_available: false })
    const { id } = made.body
    const got = await call('GET', `/v2/webhooks/${id}`)
    assert.deepEqual(got.body, shown)
    assert.equal((await call('GET', `/v2/webhooks/${id}`, undefined, { 'if-none-match': '"1"' })).status, 304)
    assert.deepEqual((await call('GET', '/v2/webhooks')).body.data[0], shown)
    assert.equal((await call('PUT', `/v2/webhooks/${id}`, got.body)).body.version, 1, 'nothing has changed')
    const changed = await call('PATCH', `/v2/webhooks/${id}`, { description: 'x' }, { 'if-match': '"1"' })
    assert.deepEqual([changed.status, changed.body.description, changed.body.version], [200, 'x', 2])
    assert.equal((await call('DELETE', `/v2/webhooks/${id}`, undefined, { 'if-match': '"1"' })).status, 412)
    assert.equal((await end(id)).status, 204)
    assert.equal((await call('GET', `/v2/webhooks/${id}`)).status, 404)
    assert.equal((await end(id)).status, 404)
    const left = () => world.owner`select from webhooks where id = ${id}`
    await eventually(async () => (await left()).count === 0, 'the row is deleted')
    for (const events of [['instance.unknown'], ['nope.*'], [], ['instance'], ['*', '*']]) {
      assert.equal((await call('POST', '/v2/webhooks', { url: receiver.url, events })).status, 422, String(events))
    }
  })

  test('is retried on the schedule of the specification while its receiver fails', async () => {
    const receiver = await createReceiver(status(500))
    const { id } = await hook(receiver, created)
    await emit()
    const begin = Date.parse('2030-01-01T00:00:00Z')
    const hours: number[] = []
    for (let n = 1; n <= 10; n++) {
      await eventually(async () => (await attemptsOf(id)).length === n, `attempt ${n}`)
      const [delivery] = await deliveries(id)
      assert.equal(delivery.status, n < 10 ? 'pending' : 'failed')
      if (n === 10) break
      const wait = (Date.parse(delivery.next_attempt_at) - (await environmentNow())) / 1000
      const scheduled = SCHEDULE_SECONDS[n]!
      assert.ok(
        wait > scheduled - 2 && wait <= scheduled * 1.2 + 1,
        `${n}: ${wait} is not ${scheduled} to ${scheduled * 1.2}`,
      )
      // No attempt is made a second before it is due.
      await world.advance(wait - 1)
      await systemClock.sleep(n < 3 ? 300 : 0)
      assert.equal((await attemptsOf(id)).length, n)
      await world.advance(2.5)
      hours.push(((await environmentNow()) - begin) / 3_600_000)
    }
    assert.ok(hours.at(-1)! <= 75.6 * 1.2 + 0.1, String(hours))
    assert.equal(receiver.count(), 10)
    assert.deepEqual(new Set(receiver.received.map((one) => one.id)).size, 1, 'one webhook-id')
    const [delivery] = await deliveries(id)
    assert.deepEqual([delivery.reason, delivery.next_attempt_at, delivery.attempt_count], ['http_status', null, 10])
    assert.equal((await attemptsOf(id))[9].response_body, 'I say 500')
    // Replay what failed.
    receiver.respond = status(200)
    const since = '2020-01-01T00:00:00Z'
    const replay = await call('POST', `/v2/webhooks/${id}/replay`, { failed_since: since })
    assert.deepEqual([replay.status, replay.body.deliveries, replay.body.next_sequence], [202, 1, null])
    await world.advance(1)
    await receiver.reach(11)
    assert.deepEqual(new Set(receiver.received.map((one) => one.id)).size, 1, 'one webhook-id')
    await eventually(async () => (await deliveries(id))[0].status === 'succeeded', 'a success')
    assert.equal((await call('POST', `/v2/webhooks/${id}/replay`, { failed_since: since })).body.deliveries, 0)
    await end(id)
  })

  test('after 500 and then 200 there are two attempts, and failing_since is null', async () => {
    const receiver = await createReceiver((response, n) => void response.writeHead(n === 1 ? 500 : 200).end())
    const { id } = await hook(receiver, created)
    await emit()
    await receiver.reach(1)
    await eventually(async () => (await call('GET', `/v2/webhooks/${id}`)).body.failing_since !== null, 'a failure')
    await world.advance(7)
    await receiver.reach(2)
    await eventually(async () => (await deliveries(id))[0].status === 'succeeded', 'a success')
    assert.deepEqual(
      (await attemptsOf(id)).map(({ response_status: code }) => code),
      [500, 200],
    )
    const [a, b] = receiver.received
    assert.deepEqual([a!.id, a!.body], [b!.id, b!.body])
    await eventually(
      async () => (await call('GET', `/v2/webhooks/${id}`)).body.failing_since === null,
      'failing_since is null',
    )
    await end(id)
  })

  test('records the error of each kind of receiver failure', async () => {
    const secretPath = await createReceiver()
    for (const [respond, error, code] of [
      [status(302, { location: secretPath.url }), 'redirect', 302],
      [status(302, { location: 'http://169.254.169.254/' }), 'redirect', 302],
      [status(404), 'http_status', 404],
      [((_, __, request) => request.socket.resetAndDestroy()) as Receiver['respond'], 'connection_lost', null],
      [
        ((_, __, request) => request.socket.end('HTTP/9 what\r\n\r\n')) as Receiver['respond'],
        'invalid_response',
        null,
      ],
    ] as const) {
      const receiver = await createReceiver(respond)
      const { id } = await hook(receiver, created)
      await emit()
      await eventually(async () => (await attemptsOf(id)).length === 1, 'an attempt')
      const [attempt] = await attemptsOf(id)
      assert.deepEqual([attempt.error, attempt.response_status], [error, code])
      assert.equal((await deliveries(id))[0].status, 'pending')
      assert.equal(receiver.count(), 1)
      await end(id)
    }
    assert.equal(secretPath.count(), 0, 'a redirect is not followed')
    const closed = await createReceiver()
    closed.close()
    const { id } = await hook(closed, created)
    await emit()
    await eventually(async () => (await attemptsOf(id)).length === 1, 'an attempt')
    assert.equal((await attemptsOf(id))[0].error, 'connect_failed')
    await end(id)
  })

  test('Retry-After postpones the next attempt by at most a day', async () => {
    for (const [header, least, most] of [
      ['3600', 3_600, 3_600],
      ['999999999', 86_400, 86_400],
      ['1', 5, 6],
      ['soon', 5, 6],
      [new Date(Date.now() + 1_800_000).toUTCString(), 1_700, 1_801],
    ] as const) {
      const receiver = await createReceiver(status(503, { 'retry-after': header }))
      const { id } = await hook(receiver, created)
      await emit()
      await eventually(async () => (await attemptsOf(id)).length === 1, 'an attempt')
      const wait = (Date.parse((await deliveries(id))[0].next_attempt_at) - (await environmentNow())) / 1000
      assert.ok(wait >= least - 1 && wait <= most, `${header}: ${wait}`)
      await end(id)
    }
  })

  test('a throttled receiver gets one request at a time until it succeeds', async () => {
    let now = 0
    let most = 0
    let busy = true
    const receiver = await createReceiver((response) => {
      now++
      most = Math.max(most, now)
      systemClock.after(30, () => {
        now--
        response.writeHead(busy ? 429 : 200).end()
      })
    })
    const { id } = await hook(receiver, created)
    await emit()
    await eventually(async () => (await attemptsOf(id)).length === 1, 'the first attempt')
    most = 0
    for (let i = 0; i < 4; i++) await emit()
    await eventually(async () => (await deliveries(id)).every((one) => one.attempt_count === 1), 'an attempt of each')
    assert.equal(most, 1)
    busy = false
    await world.advance(7)
    await receiver.reach(10)
    await eventually(async () => (await deliveries(id)).every((one) => one.status === 'succeeded'), 'all')
    most = 0
    await Promise.all(Array.from({ length: 20 }, emit))
    await receiver.reach(30)
    assert.ok(most > 1 && most <= 5, String(most))
    await end(id)
  })

  test('410 disables the webhook immediately and emits webhook.disabled; missed events can be replayed', async () => {
    const receiver = await createReceiver(status(410))
    const other = await createReceiver()
    const watch = await hook(other, { events: ['webhook.*'] })
    const { id, ...hooked } = await hook(receiver, created)
    await emit()
    await eventually(async () => !(await call('GET', `/v2/webhooks/${id}`)).body.enabled, 'the webhook is disabled')
    const { body } = await call('GET', `/v2/webhooks/${id}`)
    assert.deepEqual([body.disabled_reason, body.enabled, receiver.count()], ['gone', false, 1])
    await other.reach(1)
    assert.equal(other.received[0]!.event.type, 'webhook.disabled')
    assert.equal(other.received[0]!.event.data.object.id, id)
    assert.deepEqual(other.received[0]!.event.data.details, { reason: 'gone' })
    assert.equal(other.received[0]!.event.data.object.secret, undefined)
    const [entry] = (await call('GET', `/v2/audit_log?resource=${id}&action=disableWebhook`)).body.data
    assert.deepEqual([entry.code, entry.after.enabled], ['gone', false])
    for (const path of ['ping', 'replay', `deliveries/${(await deliveries(id))[0].id}/resend`]) {
      const body = path === 'replay' ? { from_sequence: 1, to_sequence: 2 } : undefined
      const refused = await call('POST', `/v2/webhooks/${id}/${path}`, body)
      assert.deepEqual([refused.status, refused.body.code], [409, 'invalid_state'], path)
    }
    const from = (await call('POST', `/v2/webhooks/${watch.id}/ping`)).body
    await other.reach(2)
    const missed = await emit()
    await emit()
    const last = other.received.find((one) => one.id === from.event_id)!.event.sequence
    assert.equal((await deliveries(id)).length, 1, 'nothing is queued while it is disabled')
    receiver.respond = status(200)
    receiver.secrets = [hooked.secret]
    const enabled = await call('PUT', `/v2/webhooks/${id}`, { enabled: true })
    assert.deepEqual([enabled.body.enabled, enabled.body.disabled_reason], [true, null])
    const range = { from_sequence: last, to_sequence: last + 100 }
    const replay = await call('POST', `/v2/webhooks/${id}/replay`, range)
    assert.equal(replay.body.deliveries, 2)
    await world.advance(1)
    await receiver.reach(3)
    assert.ok(receiver.received.some((one) => one.event.data.object.id === missed.id))
    await end(id)
    await end(watch.id)
  })

  test('is disabled after five days of failures only', async () => {
    const receiver = await createReceiver(status(500))
    const { id } = await hook(receiver, created)
    for (const days of [0, 1, 3, 1.1]) {
      await world.advance(days * 86_400)
      const before = receiver.count()
      await emit()
      await receiver.reach(before + 1)
      await eventually(async () => (await deliveries(id))[0].attempt_count > 0, 'an attempt')
      if (days < 1.1 || days > 2) assert.equal((await call('GET', `/v2/webhooks/${id}`)).body.enabled, true)
    }
    await eventually(async () => !(await call('GET', `/v2/webhooks/${id}`)).body.enabled, 'the webhook is disabled')
    assert.equal((await call('GET', `/v2/webhooks/${id}`)).body.disabled_reason, 'failing')
    await eventually(async () => (await deliveries(id, '&status=pending')).length === 0, 'the end of what waits')
    const cancelled = await deliveries(id, '&status=cancelled')
    assert.ok(cancelled.length > 0 && cancelled.every(({ reason }) => reason === 'disabled'))
    await end(id)
  })

  test('a ping reaches only this webhook, whatever its events are; a resend has the same ID and bytes', async () => {
    const [receiver, other] = [await createReceiver(), await createReceiver()]
    const { id } = await hook(receiver, created)
    const everything = await hook(other, { events: ['*'] })
    const { status, body } = await call('POST', `/v2/webhooks/${id}/ping`)
    assert.equal(status, 202)
    await receiver.reach(1)
    assert.deepEqual([receiver.received[0]!.id, receiver.received[0]!.event.type], [body.event_id, 'webhook.ping'])
    await eventually(async () => (await detail(id, body.delivery_id)).status === 'succeeded', 'a success')
    assert.equal((await detail(id, body.delivery_id)).cause, 'ping')
    const resent = await call('POST', `/v2/webhooks/${id}/deliveries/${body.delivery_id}/resend`)
    assert.deepEqual([resent.status, resent.body.cause, resent.body.status], [202, 'resend', 'pending'])
    await receiver.reach(2)
    const [a, b] = receiver.received
    assert.deepEqual([a!.id, a!.body], [b!.id, b!.body])
    await emit()
    await other.reach(1)
    assert.deepEqual(
      other.received.map(({ event }) => event.type),
      ['instance.created'],
    )
    const only = await deliveries(id, `&event=${body.event_id}&type=webhook.ping&status=succeeded`)
    await eventually(async () => (await deliveries(id, `&event=${body.event_id}`)).length === 2, 'both')
    assert.ok(only.every((one) => one.event_type === 'webhook.ping'))
    await end(id)
    await end(everything.id)
  })

  test('during a rotation both secrets sign, the new one first; afterwards only the new one signs', async () => {
    const receiver = await createReceiver()
    const { id, secret: old } = await hook(receiver, created)
    const rotated = await call('POST', `/v2/webhooks/${id}/rotate_secret`, { overlap_seconds: 3_600 })
    assert.equal(rotated.status, 200)
    receiver.secrets = [old, rotated.body.secret]
    await emit()
    await receiver.reach(1)
    const signatures = String(receiver.received[0]!.headers['webhook-signature']).split(' ')
    assert.equal(signatures.length, 2)
    const { body, headers } = receiver.received[0]!
    const first = { ...headers, 'webhook-signature': signatures[0]! } as never
    new Webhook(rotated.body.secret).verify(body, first)
    assert.throws(() => new Webhook(old).verify(body, first))
    const alone = await call('POST', `/v2/webhooks/${id}/rotate_secret`, { overlap_seconds: 0 })
    receiver.secrets = [alone.body.secret]
    await systemClock.sleep(1_100)
    await emit()
    await receiver.reach(2)
    assert.equal(String(receiver.received[1]!.headers['webhook-signature']).split(' ').length, 1)
    assert.deepEqual(receiver.rejected, [])
    const rows = await world.owner`select secret, previous_secret from webhooks where id = ${id}`
    const bytes = Buffer.from(alone.body.secret.slice(6), 'base64')
    assert.ok(!Buffer.concat([rows[0]!.secret, rows[0]!.previous_secret]).includes(bytes), 'the secret is sealed')
    await end(id)
  })

  test('shows a new secret to the key of the webhook, its successors and keys with keys:write', async () => {
    const receiver = await createReceiver()
    const { id } = await hook(receiver, created)
    const make = async (scopes: string[], url = '/v2/api_keys') => {
      const { body } = await call('POST', url, url.endsWith('rotate') ? {} : { name: 'k', scopes })
      return { id: body.id, call: caller(world.app, body.key) }
    }
    const scopes = ['webhooks:read', 'webhooks:write', 'instances:read']
    const [other, manager] = [await make(scopes), await make([...scopes, 'keys:write'])]
    const rotate = (by: Call) => by('POST', `/v2/webhooks/${id}/rotate_secret`)
    const refused = await rotate(other.call)
    assert.deepEqual([refused.status, refused.body.required_scope, refused.body.secret], [403, 'keys:write', undefined])
    assert.equal((await rotate(manager.call)).status, 200)
    // The key that sets the URL or the events owns the webhook.
    assert.equal((await other.call('PATCH', `/v2/webhooks/${id}`, { events: ['instance.updated'] })).status, 200)
    assert.equal((await rotate(other.call)).status, 200)
    const successor = await make(scopes, `/v2/api_keys/${other.id}/rotate`)
    assert.equal((await rotate(successor.call)).status, 200)
    await end(id)
  })

  test('the largest event has 110 kB, an ordinary one 2 kB, and neither contains user data', async () => {
    const receiver = await createReceiver()
    const { id } = await hook(receiver, { events: ['instance.created', 'instance.updated'] })
    const tags = (sign: string) =>
      Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`${i}`.padEnd(63, 'x'), sign.repeat(256)]))
    const plain = await call('POST', '/v2/instances', { ...BODY, user_data: `#!/bin/sh\n# ${CANARY}` })
    const { body } = await call('POST', '/v2/instances', { ...BODY, tags: tags('😀') })
    await call('PUT', `/v2/instances/${body.id}`, { tags: tags('🎈') })
    await receiver.reach(3)
    const sizeOf = (instance: string) =>
      Math.max(
        ...receiver.received
          .filter(({ event }) => event.data.object.id === instance)
          .map(({ body }) => Buffer.byteLength(body)),
      )
    assert.ok(sizeOf(body.id) > 100_000 && sizeOf(body.id) < 115_000, String(sizeOf(body.id)))
    assert.ok(sizeOf(plain.body.id) < 2_000, String(sizeOf(plain.body.id)))
    assert.ok(receiver.received.every((one) => secretsIn(one.body).length === 0))
    await end(id)
  })

  test('many events arrive once each while another endpoint hangs', async () => {
    const [good, hangs] = [await createReceiver(), await createReceiver(() => {})]
    const goodHook = await hook(good, created)
    const { id } = await hook(hangs, created)
    const many = 300
    for (let i = 0; i < many; i += 20) await Promise.all(Array.from({ length: 20 }, emit))
    await good.reach(many)
    assert.equal(good.rejected.length, 0)
    assert.ok(hangs.count() <= 10, `${hangs.count()} requests`)
    await eventually(async () => (await deliveries(goodHook.id, '&status=pending')).length === 0, 'all')
    assert.equal(new Set(good.received.map((one) => one.id)).size, many)
    assert.equal(good.count(), many, 'each once')
    assert.ok(good.connections() < many / 2, 'connections are reused')
    hangs.close()
    await end(id)
    await end(goodHook.id)
  })
})

const environmentNow = async (): Promise<number> => {
  const [row] = await world.owner<{ now: Date }[]>`
    select environment_now(${world.test.principal.environment_id}) as now`
  return row!.now.getTime()
}
