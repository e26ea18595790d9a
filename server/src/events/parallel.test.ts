/**
 * Two processes write concurrently while readers follow both: sequence numbers have no gaps and rise in commit order, so no
 * event appears below one that was already readable.
 */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { createApp } from '../app.ts'
import { connect } from '../db/database.ts'
import { createNotifier } from '../db/notify.ts'
import type { Deps } from '../deps.ts'
import { WORK_CHANNEL } from '../engine/work.ts'
import { type Call, caller } from '../http/testing.ts'
import type { App } from '../http/types.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { createKeyLookup } from '../keys/lookup.ts'
import { until } from '../testing/until.ts'
import { openTestStream, type TestStream } from './testing-stream.ts'

const WRITERS = 24
const WRITES = 12

let world: World
let other: { app: App; deps: Deps; stop(): Promise<void> }
before(async () => {
  world = await createWorld()
  other = await secondProcess()
})
after(async () => {
  await other?.stop()
  await world?.stop()
})

/** Simulates another process on the same database, with its own pools, notifier and key lookup. */
async function secondProcess() {
  const { deps, urls } = world
  const { clock, secrets } = deps
  const sql = connect({ url: urls.cn_engine, max: 10, name: 'second', tenants: { url: urls.cn_app, max: 10 } })
  const notifier = createNotifier(sql, clock, WORK_CHANNEL)
  await notifier.start()
  const second: Deps = { ...deps, sql, notifier, keys: createKeyLookup({ sql, clock, pepper: secrets.pepper }) }
  const app = await createApp(second, { ready: async () => [], recorded: false })
  const stop = async () => {
    await app.close()
    await notifier.stop()
    await sql.end({ timeout: 2 })
  }
  return { app, deps: second, stop }
}

test(`${WRITERS} writers in two processes: no reader misses an event or receives one twice or out of order`, {
  timeout: 180_000,
}, async (context) => {
  const { key } = world.test
  const calls: Call[] = [caller(world.app, key), caller(other.app, key)]
  // The first request compiles the schemas, which blocks the process for seconds.
  for (const call of calls) assert.equal((await call('GET', '/v2/events')).status, 200)
  let isWriting = true

  /** Polls with `after` in pages of an odd size until the writers have ended and no events are left. */
  async function poll(call: Call): Promise<{ seen: number[]; reads: number }> {
    const seen: number[] = []
    let place = 0
    for (let reads = 1; ; reads++) {
      const wasWriting = isWriting
      const { status, body } = await call('GET', `/v2/events?after=${place}&limit=7`)
      assert.equal(status, 200, JSON.stringify(body))
      for (const { sequence } of body.data) seen.push(sequence)
      assert.ok(body.next_after >= place, 'next_after never decreases')
      place = body.next_after
      if (!wasWriting && body.data.length === 0) return { seen, reads }
    }
  }

  const origins = await Promise.all([world.app, other.app].map((app) => app.listen({ port: 0, host: '127.0.0.1' })))
  const streams: TestStream[] = await Promise.all(
    origins.flatMap((origin) =>
      ['?after=0', '?after=0&type=instance.created'].map((query) =>
        openTestStream(`${origin}/v2/events/stream${query}`, { authorization: `Bearer ${key}` }),
      ),
    ),
  )
  context.after(() => {
    for (const stream of streams) stream.kill()
  })
  const readers = [poll(calls[0]!), poll(calls[1]!), poll(calls[1]!)]
  const writers = Array.from({ length: WRITERS }, async (_, n) => {
    const call = calls[n % 2]!
    const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: `writer-${n}` }
    const { status, body: made } = await call('POST', '/v2/instances', body)
    assert.equal(status, 201, JSON.stringify(made))
    for (let i = 1; i < WRITES; i++) {
      const { status, body } = await call('PUT', `/v2/instances/${made.id}`, { tags: { change: String(i) } })
      assert.equal(status, 200, JSON.stringify(body))
    }
  })
  await Promise.all(writers)
  isWriting = false

  const [{ sequence: last }] = (await world.owner`
    select sequence from environment_heads where environment_id = ${world.test.principal.environment_id}`) as [
    { sequence: number },
  ]
  assert.ok(last >= WRITERS * WRITES)
  const reads: number[] = []
  for (const reader of readers) {
    const read = await reader
    reads.push(read.reads)
    // Exactly in this order, so no event came below one that was already read.
    assert.deepEqual(
      read.seen.slice(0, last),
      Array.from({ length: last }, (_, i) => i + 1),
    )
  }
  const rows = await world.owner`
    select type, sequence from events where environment_id = ${world.test.principal.environment_id} order by sequence`
  for (const [i, stream] of streams.entries()) {
    const expected = rows.filter(({ type }) => i % 2 === 0 || type === 'instance.created').map((row) => row.sequence)
    const seen = () => stream.events().map(({ id }) => Number(id))
    await until('the stream has all events', () => seen().length >= expected.length)
    assert.deepEqual(seen(), expected)
  }
  context.diagnostic(`${last} events; reads per reader: ${reads.join(', ')}`)
})
