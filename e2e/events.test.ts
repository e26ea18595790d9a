/**
 * A client of the stream that is killed again and again while others write: at random moments and after a random number
 * of bytes, so in the middle of an event, too. It goes on with the last id that it had whole, and misses nothing and sees
 * nothing twice. Beside it, a client library that knows nothing of us, and one that polls. On simulated machines.
 */
import assert from 'node:assert/strict'
import { request } from 'node:http'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { EventSource } from 'eventsource'
import { seededRandom } from '../server/src/lib/random.ts'
import { until } from '../server/src/testing/until.ts'
import { type Answer, ControlPlane } from './control-plane.ts'

const KILLS = 50
const WRITERS = 6
const SEED = Number(process.env.SEED ?? 4)

let plane: ControlPlane
before(async () => {
  // More requests than a key may make by default.
  plane = await ControlPlane.create({ env: { CLOUDNEXUS_RATE_LIMITS: 'off' } })
})
after(() => plane?.teardown())

/** What one connection gave: the events that came whole, and how it ended. */
type Visit = { sequences: number[]; end: 'killed between events' | 'killed in an event' | 'ended' | 'refused' }

/** Reads the stream until so many bytes or milliseconds are over; what comes after is lost, as to a process that dies. */
function visit(key: string, lastId: number, limits: { bytes: number; ms: number; until?: number }): Promise<Visit> {
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
    const finish = (end: Visit['end']) => {
      clearTimeout(timer)
      sent.destroy()
      resolve({ sequences: sequences(), end })
    }
    const kill = () => finish(blocks().at(-1)! === '' ? 'killed between events' : 'killed in an event')
    const timer = setTimeout(kill, limits.ms)
    const sent = request({ port: plane.port, host: '127.0.0.1', path, headers, agent: false }, (answer) => {
      answer.on('data', (part: Buffer) => {
        bytes = Buffer.concat([bytes, part]).subarray(0, limits.bytes)
        if (bytes.length === limits.bytes || (limits.until && sequences().at(-1)! >= limits.until)) kill()
      })
      answer.on('end', () => finish('ended'))
      answer.on('error', () => finish('ended'))
    })
    sent.on('error', () => finish('refused'))
    sent.end()
  })
}

test(`a client that is killed ${KILLS} times under load misses nothing and sees nothing twice`, {
  timeout: 300_000,
}, async (context) => {
  const key = plane.credentials.test_key
  const random = seededRandom(SEED)
  const call = (method: string, path: string, body?: object) => plane.call(method, path, body, key)
  let isOver = false

  /** Writes until it is over; a control plane that is restarted refuses for a while. */
  async function writer(n: number): Promise<void> {
    const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: `writer-${n}` }
    let id: string | undefined
    for (let i = 0; !isOver; i++) {
      const change = { tags: { change: String(i) } }
      const written = id ? call('PUT', `/v2/instances/${id}`, change) : call('POST', '/v2/instances', body)
      const answer: Answer | null = await written.catch(() => null)
      id ??= answer?.body.id
      await sleep(20)
    }
  }

  /** Asks for what comes after, every now and then. */
  const polled: number[] = []
  async function poll(last: () => number | null): Promise<void> {
    for (let place = 0; place !== last(); ) {
      const answer = await call('GET', `/v2/events?after=${place}&limit=100`).catch(() => null)
      if (answer === null) continue
      polled.push(...answer.body.data.map(({ sequence }: { sequence: number }) => sequence))
      place = answer.body.next_after
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
    // It comes again by itself, unless it was refused: then whoever uses it has to.
    source.addEventListener('error', () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 500)
    })
  }

  listen()
  const writers = Array.from({ length: WRITERS }, (_, n) => writer(n))
  let last: number | null = null
  const polling = poll(() => last)
  const seen: number[] = []
  const ends = new Map<Visit['end'], number>()
  const goOn = async (limits: Parameters<typeof visit>[2]) => {
    const { sequences, end } = await visit(key, seen.at(-1) ?? 0, limits)
    seen.push(...sequences)
    ends.set(end, (ends.get(end) ?? 0) + 1)
    return end
  }
  for (let kills = 0, visits = 0; kills < KILLS; visits++) {
    // Among them one restart in order and one without, of the control plane itself.
    if (visits === 15 || visits === 35) {
      await plane.end(visits === 15 ? 'SIGTERM' : 'SIGKILL')
      await plane.start()
    }
    const byBytes = random.integer(2) === 0
    const limits = { bytes: byBytes ? 1 + random.integer(20_000) : 1e9, ms: byBytes ? 10_000 : random.integer(300) }
    if ((await goOn(limits)).startsWith('killed')) kills++
    assert.ok(visits < 10 * KILLS, `${kills} kills in ${visits} visits`)
  }
  isOver = true
  await Promise.all(writers)
  const rest = async () => (await call('GET', '/v2/events?limit=1')).body.next_after as number
  await until('nothing more is told', async () => {
    const before = await rest()
    await sleep(1_000)
    return before === (await rest())
  })
  last = await rest()
  await polling
  for (let i = 0; i < 20 && seen.at(-1) !== last; i++) await goOn({ bytes: 1e9, ms: 60_000, until: last })
  await until('the library has them all', () => listened.at(-1) === last)
  source!.close()

  const all = Array.from({ length: last }, (_, i) => i + 1)
  assert.deepEqual(seen, all, 'the client that is killed')
  assert.deepEqual(polled, all, 'the one that polls')
  assert.deepEqual(listened, all, 'the library')
  assert.ok((ends.get('killed in an event') ?? 0) >= 5, 'none was killed in the middle of an event')
  assert.ok(last > 200, `only ${last} events`)
  context.diagnostic(`seed ${SEED}: ${last} events; ${[...ends].map(([end, count]) => `${count} ${end}`).join(', ')}`)
})
