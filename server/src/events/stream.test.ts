import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { EventSource } from 'eventsource'
import { createApp } from '../app.ts'
import type { Deps } from '../deps.ts'
import { type Call, createTestKey } from '../http/testing.ts'
import type { App } from '../http/types.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { atMost } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { until } from '../testing/until.ts'
import { withOutbox } from './outbox.ts'
import { STREAMS_PER_KEY } from './stream.ts'
import { openTestStream, type TestStream } from './testing-stream.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const ready = async () => []

let world: World
let call: Call
let fastApp: App
let origin: string
before(async () => {
  world = await createWorld()
  call = world.callTest
  fastApp = await createApp(accelerated(world.deps, 10), { ready, recorded: false })
  origin = await fastApp.listen({ port: 0, host: '127.0.0.1' })
})
after(async () => {
  for (const stream of opened) stream.kill()
  await fastApp?.close()
  await world?.stop()
})

/** Dependencies whose monotonic time runs faster: heartbeats come after 1.5 s. */
function accelerated(deps: Deps, factor: number): Deps {
  const { clock, notifier } = deps
  return {
    ...deps,
    clock: {
      ...clock,
      monotonic: () => clock.monotonic() * factor,
      after: (ms, callback) => clock.after(ms / factor, callback),
    },
    notifier: { ...notifier, nextChange: (id, ms, signal) => notifier.nextChange(id, ms / factor, signal) },
  }
}

const opened: TestStream[] = []
async function open(query = '', headers: Record<string, string> = {}, at = origin): Promise<TestStream> {
  const own = { authorization: `Bearer ${world.test.key}` }
  const stream = await openTestStream(`${at}/v2/events/stream${query}`, { ...own, ...headers })
  opened.push(stream)
  return stream
}

async function tags(id: string, value: string): Promise<void> {
  assert.equal((await call('PUT', `/v2/instances/${id}`, { tags: { value } })).status, 200)
}
const create = async () => (await call('POST', '/v2/instances', BODY)).body.id as string
const lastOf = async () => (await call('GET', '/v2/events?limit=1')).body.next_after as number
const typesOf = (stream: TestStream) => stream.events().map(({ event }) => event)

describe('a stream', () => {
  test('starts after Last-Event-ID, else after the query parameter, else with new events', async () => {
    const begin = await lastOf()
    await create()
    await create()
    const end = await lastOf()
    const streams = await Promise.all([
      open(`?after=${begin}`),
      open(`?after=0`, { 'last-event-id': String(begin) }),
      open(`?after=${begin}`, { 'last-event-id': '' }),
      open(),
    ])
    const [byAddress, byHeader, byEmptyHeader, fromNow] = streams as [TestStream, TestStream, TestStream, TestStream]
    for (const { response } of streams) {
      assert.equal(response.statusCode, 200)
      assert.equal(response.headers['content-type'], 'text/event-stream')
      assert.equal(response.headers['cache-control'], 'no-store')
    }
    await until('the first block', () => fromNow.text() !== '')
    assert.match(fromNow.text(), /^retry: \d+\nid: \d+\n\n/)
    await create()
    await until('all streams have all events', () => streams.every((stream) => Number(stream.lastId()) > end))
    for (const stream of [byAddress, byHeader, byEmptyHeader]) {
      const ids = stream.events().map(({ id }) => Number(id))
      assert.deepEqual(ids.slice(0, 3), [begin + 1, begin + 2, begin + 3])
    }
    assert.equal(fromNow.events()[0]!.id, String(end + 1))
    for (const stream of streams) stream.kill()
  })

  test('has the same bytes as the list and GET /v2/events/{id}', async () => {
    const begin = await lastOf()
    const stream = await open(`?after=${begin}`)
    const id = await create()
    await tags(id, 'é"\\ ☃')
    await until('two events', () => stream.events().length >= 2)
    stream.kill()
    for (const { id, event, data } of stream.events()) {
      const parsed = JSON.parse(data)
      assert.deepEqual([String(parsed.sequence), parsed.type], [id, event])
      const headers = { authorization: `Bearer ${world.test.key}` }
      const single = await world.app.inject({ url: `/v2/events/${parsed.id}`, headers })
      assert.equal(single.body, data)
      const list = await world.app.inject({ url: `/v2/events?after=${parsed.sequence - 1}&limit=1`, headers })
      assert.ok(list.body.startsWith(`{"data":[${data}]`))
    }
  })

  test('with filters, the heartbeat carries the position also when no event matched', async () => {
    const [mine, other] = [await create(), await create()]
    const begin = await lastOf()
    const filtered = await open(`?after=${begin}&resource=${mine}&type=instance.updated`)
    const hidden = await open(`?after=${begin}&type=webhook.*`)
    await tags(other, '1')
    await tags(mine, '1')
    await until('its event', () => filtered.events().length === 1)
    assert.equal(JSON.parse(filtered.events()[0]!.data).data.object.id, mine)
    const end = await lastOf()
    await until('the position without events', () => Number(hidden.lastId()) >= end, 40)
    assert.match(hidden.text(), /\n\n: heartbeat\nid: \d+\n\n/)
    assert.deepEqual(hidden.events(), [])
    for (const stream of [filtered, hidden]) stream.kill()
  })

  test('sends every event once, however many there are', async () => {
    const begin = await lastOf()
    const { environment_id, mode } = world.test.principal
    const many = Array.from({ length: 350 }, () => ({
      type: 'webhook.ping' as const,
      resource_id: 'wh_1',
      request_id: null,
      data: { object: { object: 'webhook' as const } },
    }))
    await withOutbox(world.deps, { environment_id, mode }, async (_tx, outbox) => void outbox.events.push(...many))
    const stream = await open(`?after=${begin}&type=webhook.ping`)
    await until('all of them', () => stream.events().length >= 350)
    assert.equal(new Set(stream.events().map(({ id }) => id)).size, 350)
    stream.kill()
  })

  test('returns 400 for an invalid Last-Event-ID', async () => {
    for (const text of ['x', '-1', '1.5', '1e3', '9'.repeat(16), '1 2', 'evt_3x9y2z1a0b5c7d8e4f6g']) {
      const { status, body } = await call('GET', '/v2/events/stream', undefined, { 'last-event-id': text })
      assert.deepEqual([status, body.errors[0].parameter], [400, 'last-event-id'], text)
    }
    assert.equal((await call('HEAD', '/v2/events/stream')).status, 200)
  })

  test('works with the npm package eventsource, which reconnects and misses nothing', async () => {
    const begin = await lastOf()
    const seen: number[] = []
    let cut: AbortController | undefined
    const source = new EventSource(`${origin}/v2/events/stream?after=${begin}`, {
      fetch: (url, init) => {
        cut = new AbortController()
        const headers = { ...init.headers, authorization: `Bearer ${world.test.key}` }
        return fetch(url, { ...init, headers, signal: AbortSignal.any([cut.signal, init.signal as AbortSignal]) })
      },
    })
    source.addEventListener('instance.updated', ({ data, lastEventId }) => {
      assert.equal(String(JSON.parse(data).sequence), lastEventId)
      seen.push(Number(lastEventId))
    })
    const id = await create()
    for (let round = 1; round <= 3; round++) {
      await tags(id, `${round}a`)
      await until('the event', () => seen.length === 2 * round - 1)
      cut!.abort(new TypeError('the connection was cut'))
      await tags(id, `${round}b`)
      await until('the event of the interruption', () => seen.length === 2 * round)
    }
    source.close()
    const { body } = await call('GET', `/v2/events?after=${begin}&type=instance.updated&limit=100`)
    assert.deepEqual(
      seen,
      body.data.map(({ sequence }: { sequence: number }) => sequence),
    )
  })
})

describe('the end of a stream', () => {
  const keyOf = (scopes: Parameters<typeof createTestKey>[2]) => createTestKey(world.deps, world.test.principal, scopes)

  test('ends when the key is revoked, expires or may no longer read events', async () => {
    const ends: Record<string, (id: string) => Promise<unknown>> = {
      revoked: (id) => call('DELETE', `/v2/api_keys/${id}`),
      expired: async (id) => world.owner`update api_keys set expires_at = now() where id = ${id}`,
      'without the scope': (id) => call('PATCH', `/v2/api_keys/${id}`, { scopes: ['instances:read'] }),
      'from another address': (id) => call('PATCH', `/v2/api_keys/${id}`, { allowed_addresses: ['203.0.113.7'] }),
    }
    for (const [how, end] of Object.entries(ends)) {
      const { key, principal } = await keyOf(['events:read', 'instances:read'])
      const stream = await open('', { authorization: `Bearer ${key}` })
      await until('the stream is open', () => stream.text() !== '')
      await end(principal.key_id)
      const isOver = await atMost(
        world.deps.clock,
        30_000,
        stream.ended.then(() => true),
      )
      assert.ok(isOver, `it goes on with a key that is ${how}`)
      assert.ok(stream.response.complete, 'a complete response, so that the client reconnects and receives the error')
    }
  })

  test('stops sending events that the key may no longer read', async () => {
    const { key, principal } = await keyOf(['events:read', 'instances:read'])
    const stream = await open('', { authorization: `Bearer ${key}` })
    const id = await create()
    await until('its first event', () => typesOf(stream).includes('instance.created'))
    assert.equal((await call('PATCH', `/v2/api_keys/${principal.key_id}`, { scopes: ['events:read'] })).status, 200)
    const count = stream.events().length
    const begin = await lastOf()
    await tags(id, 'hidden')
    await until('the position without events', () => Number(stream.lastId()) > begin, 40)
    assert.equal(stream.events().length, count)
    stream.kill()
  })

  test('completes the response when the process stops', async () => {
    const stopping = new AbortController()
    const app = await createApp({ ...accelerated(world.deps, 10), stopping: stopping.signal }, { ready })
    const stream = await open('', {}, await app.listen({ port: 0, host: '127.0.0.1' }))
    await until('the stream is open', () => stream.text() !== '')
    stopping.abort()
    await stream.ended
    assert.ok(stream.response.complete)
    await app.close()
  })

  test('continues after the database was unavailable', async () => {
    let away = false
    const { sql, keys } = world.deps
    const as = (environment: string) => {
      const bound = sql.as(environment)
      const query = (...given: Parameters<typeof bound>) => {
        if (away) throw new DatabaseUnavailableError('a test')
        return bound(...given)
      }
      return Object.assign(query, bound)
    }
    const app = await createApp(
      { ...accelerated(world.deps, 10), keys, sql: Object.assign(sql.bind(null), sql, { as }) as never },
      { ready },
    )
    const stream = await open('', {}, await app.listen({ port: 0, host: '127.0.0.1' }))
    await until('the stream is open', () => stream.text() !== '')
    away = true
    const begin = await lastOf()
    await create()
    await world.deps.clock.sleep(200)
    assert.deepEqual(stream.events(), [])
    away = false
    await until('the event of the outage', () => stream.events()[0]?.id === String(begin + 1))
    stream.kill()
    await app.close()
  })

  test('disconnects a reader that does not read', async () => {
    // Its 90 seconds take two seconds here.
    const app = await createApp(accelerated(world.deps, 45), { ready, recorded: false })
    const begin = await lastOf()
    const { environment_id, mode } = world.test.principal
    const big = Array.from({ length: 100 }, () => ({
      type: 'webhook.ping' as const,
      resource_id: 'wh_1',
      request_id: null,
      data: { object: { object: 'webhook' as const }, details: { text: 'x'.repeat(200_000) } },
    }))
    await withOutbox(world.deps, { environment_id, mode }, async (_tx, outbox) => void outbox.events.push(...big))
    const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
    const socket = connect({ port: Number(port), host: '127.0.0.1' })
    socket.on('error', () => {})
    socket.pause()
    socket.write(
      `GET /v2/events/stream?after=${begin} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${world.test.key}\r\n\r\n`,
    )
    let connections = 1
    await until(
      'it is connected',
      () => app.server.getConnections((_, count) => (connections = count)) && connections === 1,
    )
    await until(
      'it is disconnected',
      () => app.server.getConnections((_, count) => (connections = count)) && connections === 0,
    )
    socket.destroy()
    await app.close()
  })
})

test(`returns 429 at ${STREAMS_PER_KEY} streams of a key, until one is closed`, async () => {
  const { key } = await createTestKey(world.deps, world.test.principal, ['events:read'])
  const headers = { authorization: `Bearer ${key}` }
  const streams = await Promise.all(Array.from({ length: STREAMS_PER_KEY }, () => open('', headers)))
  assert.ok(streams.every(({ response }) => response.statusCode === 200))
  const refused = await open('', headers)
  assert.equal(refused.response.statusCode, 429)
  assert.ok(Number(refused.response.headers['retry-after']) > 0)
  const others = await open()
  assert.equal(others.response.statusCode, 200)
  others.kill()
  streams.pop()!.kill()
  await until('a stream can be opened', async () => {
    const again = await open('', headers)
    streams.push(again)
    return again.response.statusCode === 200
  })
  for (const stream of streams) stream.kill()
})
