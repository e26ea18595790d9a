/** Connections that hold on to the server: each is cut in time, with an answer where one can still be given. */
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
/** What happens at /v2/stuck: who came, who left, and the way out. */
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
      answer_ms: 300,
      silence_ms: 600,
      keep_alive_ms: 300,
      check_ms: 50,
      stopping_body_ms: 100,
    },
  },
)
await app.listen({ port: 0, host: '127.0.0.1' })
after(() => app.close())

/** A connection, and all that came back when it has ended. */
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

describe('cut', { timeout: 120_000 }, () => {
  test('who connects and says nothing', async () => {
    assert.equal(status(await open().ended), 408)
  })

  test('who sends headers a byte at a time', async () => {
    const { socket, ended } = open()
    const drip = setInterval(() => socket.writable && socket.write('X'), 50)
    socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\n')
    const text = await ended
    clearInterval(drip)
    assert.deepEqual([status(text), codeOf(text)], [408, 'request_timeout'])
  })

  test('who sends a body a byte at a time', async () => {
    const { socket, ended } = open()
    socket.write(request('POST /v2/body', 'Content-Type: application/json', 'Content-Length: 1000'))
    const drip = setInterval(() => socket.writable && socket.write(' '), 50)
    const text = await ended
    clearInterval(drip)
    assert.deepEqual([status(text), codeOf(text)], [408, 'request_timeout'])
  })

  test('who does not read the answer', async () => {
    const accepted = once(app.server, 'connection')
    const { socket } = open()
    socket.pause()
    socket.write(request('GET /v2/large'))
    const [atServer] = (await accepted) as [Socket]
    await once(atServer, 'close')
    socket.destroy()
  })

  test('who stays connected after an answer', async () => {
    const { socket, ended } = open()
    socket.write(request('GET /healthz'))
    assert.equal(status(await ended), 200)
  })

  test('not who reads slowly, but reads', async () => {
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

describe('answered', { timeout: 120_000 }, () => {
  test('503 for a handler that does not come to an end; what it says later is ignored', async () => {
    const { socket, ended } = open()
    socket.write(request('GET /v2/stuck', 'Connection: close'))
    const text = await ended
    assert.deepEqual([status(text), codeOf(text)], [503, 'unavailable'])
    assert.match(text, /retry-after: 5/i)
    stuck.emit('release')
    await new Promise(setImmediate)
  })

  test('nobody who was cut, and no client that left, is an error of ours', async () => {
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

describe('while the process is being stopped', { timeout: 120_000 }, () => {
  test('answers close their connections, and a body that does not come is answered', async () => {
    const body = open()
    body.socket.write(request('POST /v2/body', 'Content-Type: application/json', 'Content-Length: 1000'))
    const waiting = open()
    const entered = once(stuck, 'entered')
    waiting.socket.write(request('GET /v2/stuck'))
    await entered
    stopping.abort()
    stuck.emit('release')
    const finished = await waiting.ended
    assert.equal(status(finished), 200)
    assert.match(finished, /connection: close/i)
    const text = await body.ended
    assert.deepEqual([status(text), codeOf(text)], [503, 'unavailable'])
  })
})
