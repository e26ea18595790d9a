/** Slow clients and handlers: the server closes their connections in time, with a response where possible. */
import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { after, describe, test } from 'node:test'
import { Type } from 'typebox'
import { createApp } from '../app.ts'
import { createTestApp } from './testing.ts'
import type { Resource } from './types.ts'

const logged: { level: string; fields: object }[] = []
const stopping = new AbortController()
const { app: base, deps, live } = await createTestApp()
after(() => base.close())
const auth = `Authorization: Bearer ${live.key}`
const LARGE = 'x'.repeat(32 * 2 ** 20)
/** Events of /v2/stuck: a request entered, its client left; `release` ends the request. */
const stuck = new EventEmitter()

const probes: Resource = {
  schemas: [],
  routes(app) {
    const schema = { summary: 'Probe', tags: ['Service'], response: { 200: Type.Object({}) } }
    const config = { scope: 'any' } as const
    app.get('/v2/large', { config, schema: { ...schema, operationId: 'large' } }, (_request, reply) =>
      reply.type('text/plain').send(LARGE as never),
    )
    app.get('/v2/stuck', { config, schema: { ...schema, operationId: 'stuck' } }, (request) => {
      request.raw.once('close', () => stuck.emit('left'))
      stuck.emit('entered')
      return once(stuck, 'release').then(() => ({}))
    })
    app.post('/v2/stuck', { config, schema: { ...schema, operationId: 'stuckWrite' } }, async () => {
      stuck.emit('entered')
      return await new Promise<never>(() => {})
    })
    app.post(
      '/v2/body',
      { config, schema: { ...schema, operationId: 'body', body: Type.Object({}) } },
      async () => ({}),
    )
  },
}
const note = (level: string) => (fields: object) => void logged.push({ level, fields })
const log = { ...deps.log, error: note('error'), warn: note('warn') }
const app = await createApp(
  { ...deps, log, stopping: stopping.signal },
  {
    ready: async () => [],
    resources: [probes],
    timeouts: {
      headers_ms: 300,
      body_ms: 300,
      response_ms: 300,
      idle_ms: 600,
      keep_alive_ms: 300,
      check_ms: 50,
      stopping_body_ms: 100,
      stopping_response_ms: 150,
    },
  },
)
await app.listen({ port: 0, host: '127.0.0.1' })
after(() => app.close())

/** Opens a connection; `ended` has all data received until it closed. */
function open(): { socket: Socket; ended: Promise<string> } {
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  let text = ''
  socket.on('data', (chunk) => (text += chunk)).on('error', () => {})
  return { socket, ended: once(socket, 'close').then(() => text) }
}
const status = (text: string) => Number(text.split(' ')[1])
const codeOf = (text: string) => JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4)).code
const request = (line: string, ...headers: string[]) =>
  `${line} HTTP/1.1\r\nHost: x\r\n${[auth, ...headers].join('\r\n')}\r\n\r\n`

describe('the server closes the connection of a client that', { timeout: 120_000 }, () => {
  test('sends nothing', async () => {
    assert.equal(status(await open().ended), 408)
  })

  test('sends headers a byte at a time', async () => {
    const { socket, ended } = open()
    const drip = setInterval(() => socket.writable && socket.write('X'), 50)
    socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\n')
    const text = await ended
    clearInterval(drip)
    assert.deepEqual([status(text), codeOf(text)], [408, 'request_timeout'])
  })

  test('sends a body a byte at a time', async () => {
    const { socket, ended } = open()
    socket.write(request('POST /v2/body', 'Content-Type: application/json', 'Content-Length: 1000'))
    const drip = setInterval(() => socket.writable && socket.write(' '), 50)
    const text = await ended
    clearInterval(drip)
    assert.deepEqual([status(text), codeOf(text)], [408, 'request_timeout'])
  })

  test('does not read the response', async () => {
    const accepted = once(app.server, 'connection')
    const { socket } = open()
    socket.pause()
    socket.write(request('GET /v2/large'))
    const [atServer] = (await accepted) as [Socket]
    await once(atServer, 'close')
    socket.destroy()
  })

  test('stays connected after a response', async () => {
    const { socket, ended } = open()
    socket.write(request('GET /healthz'))
    assert.equal(status(await ended), 200)
  })

  test('reads slowly, but only after the whole response', async () => {
    const { socket } = open()
    let bytes = 0
    socket.removeAllListeners('data')
    socket.on('data', (chunk) => {
      bytes += chunk.length
      socket.pause()
      setTimeout(() => socket.resume(), 2)
    })
    socket.write(request('GET /v2/large', 'Connection: close'))
    await once(socket, 'close')
    assert.ok(bytes > LARGE.length)
  })
})

describe('a slow handler', { timeout: 120_000 }, () => {
  test('gets a 503 response; its late result is ignored', async () => {
    const { socket, ended } = open()
    socket.write(request('GET /v2/stuck', 'Connection: close'))
    const text = await ended
    assert.deepEqual([status(text), codeOf(text)], [503, 'unavailable'])
    assert.match(text, /retry-after: 5/i)
    stuck.emit('release')
    await new Promise(setImmediate)
  })

  test('gets a 503 response for a write without a body', async () => {
    const { socket, ended } = open()
    socket.write(request('POST /v2/stuck', 'Content-Length: 0', 'Connection: close'))
    const text = await ended
    assert.deepEqual([status(text), codeOf(text)], [503, 'unavailable'])
  })

  test('logs no error when the client disconnects', async () => {
    const { socket } = open()
    const entered = once(stuck, 'entered')
    socket.write(request('GET /v2/stuck'))
    await entered
    const left = once(stuck, 'left')
    socket.destroy()
    await left
    stuck.emit('release')
    await new Promise(setImmediate)
    const failures = logged.filter(({ fields }) => (fields as { code?: string }).code !== 'unavailable')
    assert.deepEqual(failures, [])
  })
})

describe('shutdown', { timeout: 120_000 }, () => {
  test('responses close their connections, and a pending body or response gets 503', async () => {
    const body = open()
    body.socket.write(request('POST /v2/body', 'Content-Type: application/json', 'Content-Length: 1000'))
    const waiting = open()
    const entered = once(stuck, 'entered')
    waiting.socket.write(request('GET /v2/stuck'))
    await entered
    const late = open()
    const lateEntered = once(stuck, 'entered')
    late.socket.write(request('POST /v2/stuck', 'Content-Length: 0'))
    await lateEntered
    stopping.abort()
    stuck.emit('release')
    const finished = await waiting.ended
    assert.equal(status(finished), 200)
    assert.match(finished, /connection: close/i)
    const text = await body.ended
    assert.deepEqual([status(text), codeOf(text)], [503, 'unavailable'])
    const lateText = await late.ended
    assert.deepEqual([status(lateText), codeOf(lateText)], [503, 'unavailable'])
    assert.match(lateText, /restarting/)
    assert.match(lateText, /connection: close/i)
  })
})
