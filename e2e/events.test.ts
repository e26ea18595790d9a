/**
 * A stream client is killed repeatedly while others write: at random times and after a random number of bytes, also in the
 * middle of an event. It resumes with the last complete ID and receives each event exactly once. The same holds for the npm
 * package eventsource and for a client that polls. Machines are simulated.
 */
import assert from 'node:assert/strict'
import { request } from 'node:http'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { EventSource } from 'eventsource'
import { seededRandom } from '../server/src/lib/random.ts'
import { until } from '../server/src/testing/until.ts'
import { type ApiResponse, ControlPlane } from './control-plane.ts'

const KILLS = 50
const WRITERS = 6
const SEED = Number(process.env.SEED ?? 4)

let plane: ControlPlane
before(async () => {
  // The test exceeds the default rate limit.
  plane = await ControlPlane.create({ env: { CLOUDNEXUS_RATE_LIMITS: 'off' } })
})
after(() => plane?.teardown())

/** The complete events of one connection, and how it ended. */
type Session = { sequences: number[]; end: 'killed between events' | 'killed in an event' | 'ended' | 'refused' }

/** Reads the stream up to a limit of bytes or milliseconds; further data is lost, as in a process that is killed. */
function readStream(
  key: string,
  lastId: number,
  limits: { bytes: number; ms: number; until?: number },
): Promise<Session> {
  const path = '/v2/events/stream?after=0'
  const headers = { authorization: `Bearer ${key}`, ...(lastId > 0 && { 'last-event-id': String(lastId) }) }
  return new Promise((resolve) => {
    let bytes = Buffer.alloc(0)
    const blocks = () => bytes.toString('utf8').split('\n\n')
    const sequences = () => {
      const whole = blocks().slice(0, -1)
      const data = whole.flatMap((block) => /^data: (.*)$/m.exec(block)?.[1] ?? [])
      return data.map((text) => (JSON.parse(text) as { sequence: number }).sequence)
    }
    const finish = (end: Session['end']) => {
      clearTimeout(timer)
      sent.destroy()
      resolve({ sequences: sequences(), end })
    }
    const kill = () => finish(blocks().at(-1)! === '' ? 'killed between events' : 'killed in an event')
    const timer = setTimeout(kill, limits.ms)
    const sent = request({ port: plane.port, host: '127.0.0.1', path, headers, agent: false }, (response) => {
      response.on('data', (part: Buffer) => {
        bytes = Buffer.concat([bytes, part]).subarray(0, limits.bytes)
        if (bytes.length === limits.bytes || (limits.until && sequences().at(-1)! >= limits.until)) kill()
      })
      response.on('end', () => finish('ended'))
      response.on('error', () => finish('ended'))
    })
    sent.on('error', () => finish('refused'))
    sent.end()
  })
}

test(`a client that is killed ${KILLS} times under load receives each event exactly once`, {
  timeout: 300_000,
}, async (context) => {
  const key = plane.credentials.test_key
  const random = seededRandom(SEED)
  const call = (method: string, path: string, body?: object) => plane.call(method, path, body, key)
  let isOver = false

  /** Writes until the test ends. Requests fail while the control plane restarts. */
  async function writer(n: number): Promise<void> {
    const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: `writer-${n}` }
    let id: string | undefined
    for (let i = 0; !isOver; i++) {
      const change = { tags: { change: String(i) } }
      const written = id ? call('PUT', `/v2/instances/${id}`, change) : call('POST', '/v2/instances', body)
      const response: ApiResponse | null = await written.catch(() => null)
      id ??= response?.body.id
      await sleep(20)
    }
  }

  /** Polls with `after`. */
  const polled: number[] = []
  async function poll(last: () => number | null): Promise<void> {
    for (let position = 0; position !== last(); ) {
      const response = await call('GET', `/v2/events?after=${position}&limit=100`).catch(() => null)
      if (response === null) continue
      polled.push(...response.body.data.map(({ sequence }: { sequence: number }) => sequence))
      position = response.body.next_after
      await sleep(50)
    }
  }

  const listened: number[] = []
  const types = ['created', 'ready', 'started', 'updated', 'stopped', 'failed'].map((type) => `instance.${type}`)
  let source: EventSource
  function listen(): void {
    source = new EventSource(`http://127.0.0.1:${plane.port}/v2/events/stream?after=${listened.at(-1) ?? 0}`, {
      fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization: `Bearer ${key}` } }),
    })
    for (const type of types)
      source.addEventListener(type, ({ lastEventId }) => void listened.push(Number(lastEventId)))
    // EventSource reconnects by itself, except after an error response.
    source.addEventListener('error', () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 500)
    })
  }

  listen()
  const writers = Array.from({ length: WRITERS }, (_, n) => writer(n))
  let last: number | null = null
  const polling = poll(() => last)
  const seen: number[] = []
  const ends = new Map<Session['end'], number>()
  const resume = async (limits: Parameters<typeof readStream>[2]) => {
    const { sequences, end } = await readStream(key, seen.at(-1) ?? 0, limits)
    seen.push(...sequences)
    ends.set(end, (ends.get(end) ?? 0) + 1)
    return end
  }
  for (let kills = 0, sessions = 0; kills < KILLS; sessions++) {
    // The control plane restarts twice: once after SIGTERM, once after SIGKILL.
    if (sessions === 15 || sessions === 35) {
      await plane.end(sessions === 15 ? 'SIGTERM' : 'SIGKILL')
      await plane.start()
    }
    const byBytes = random.integer(2) === 0
    const limits = { bytes: byBytes ? 1 + random.integer(20_000) : 1e9, ms: byBytes ? 10_000 : random.integer(300) }
    if ((await resume(limits)).startsWith('killed')) kills++
    assert.ok(sessions < 10 * KILLS, `${kills} kills in ${sessions} sessions`)
  }
  isOver = true
  await Promise.all(writers)
  const lastSequence = async () => (await call('GET', '/v2/events?limit=1')).body.next_after as number
  await until('no further event is emitted', async () => {
    const before = await lastSequence()
    await sleep(1_000)
    return before === (await lastSequence())
  })
  last = await lastSequence()
  await polling
  for (let i = 0; i < 20 && seen.at(-1) !== last; i++) await resume({ bytes: 1e9, ms: 60_000, until: last })
  await until('eventsource has received all events', () => listened.at(-1) === last)
  source!.close()

  const all = Array.from({ length: last }, (_, i) => i + 1)
  assert.deepEqual(seen, all, 'the killed client')
  assert.deepEqual(polled, all, 'the polling client')
  assert.deepEqual(listened, all, 'eventsource')
  assert.ok((ends.get('killed in an event') ?? 0) >= 5, 'too few kills in the middle of an event')
  assert.ok(last > 200, `only ${last} events`)
  context.diagnostic(`seed ${SEED}: ${last} events; ${[...ends].map(([end, count]) => `${count} ${end}`).join(', ')}`)
})
