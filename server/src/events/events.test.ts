import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { wake } from '../engine/work.ts'
import { type Call, caller, createTestKey } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import type { Scope } from '../keys/scopes.ts'
import { until } from '../testing/until.ts'
import { withOutbox } from './outbox.ts'
import { purgeEvents } from './store.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

let world: World
let call: Call
before(async () => {
  world = await createWorld()
  call = world.callTest
})
after(() => world?.stop())

async function create(by = call, body: object = {}): Promise<string> {
  const { status, body: made } = await by('POST', '/v2/instances', { ...BODY, ...body })
  assert.equal(status, 201, JSON.stringify(made))
  return made.id
}

/** The text of a response. */
async function textOf(url: string, key = world.test.key): Promise<string> {
  const { body } = await world.app.inject({ url, headers: { authorization: `Bearer ${key}` } })
  return body
}

const sequences = (body: { data: { sequence: number }[] }) => body.data.map(({ sequence }) => sequence)
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i)
const lastOf = async () => (await call('GET', '/v2/events?limit=1')).body.next_after as number

describe('GET /v2/events', () => {
  test('lists newest first with cursors, or oldest first', async () => {
    const begin = await lastOf()
    for (let i = 0; i < 5; i++) await create()
    const end = await lastOf()
    const newest = await call('GET', '/v2/events?limit=2')
    assert.deepEqual(sequences(newest.body), [end, end - 1])
    const { next_cursor } = newest.body.pagination
    const more = await call('GET', `/v2/events?limit=2&cursor=${next_cursor}`)
    assert.deepEqual(sequences(more.body), [end - 2, end - 3])
    assert.match(newest.headers.link!, /rel="next"/)
    const oldest = await call('GET', `/v2/events?limit=3&sort=created_at`)
    assert.deepEqual(sequences(oldest.body), [1, 2, 3])
    assert.ok(end >= begin + 5)
  })

  test('with after, pages ascend by cursor or next_after up to and past the end', async () => {
    const begin = await lastOf()
    await Promise.all(range(1, 7).map(() => create()))
    const end = await lastOf()
    const all = range(begin + 1, end)
    const whole = await call('GET', `/v2/events?after=${begin}&limit=100`)
    assert.deepEqual(sequences(whole.body).slice(0, all.length), all)

    const byCursor: number[] = []
    for (let url: string | null = `/v2/events?after=${begin}&limit=3`; url; ) {
      const { body }: { body: any } = await call('GET', url)
      byCursor.push(...sequences(body))
      assert.equal(body.next_after, body.pagination.has_more ? byCursor.at(-1) : Math.max(byCursor.at(-1)!, end))
      const { next_cursor } = body.pagination
      url = next_cursor && `/v2/events?after=${begin}&limit=3&cursor=${next_cursor}`
    }
    assert.deepEqual(byCursor, all)

    const byAfter: number[] = []
    for (let place = begin; place < end; ) {
      const { body } = await call('GET', `/v2/events?after=${place}&limit=3`)
      byAfter.push(...sequences(body))
      place = body.next_after
    }
    assert.deepEqual(byAfter, all)

    assert.deepEqual((await call('GET', `/v2/events?after=${end}`)).body.next_after, end)
    for (const url of [`/v2/events?after=${end + 1}`, `/v2/events/stream?after=${end + 1_000_000}`]) {
      const beyond = await call('GET', url)
      assert.deepEqual([beyond.status, beyond.body.code], [409, 'events_ahead'])
      assert.equal(beyond.body.newest_sequence, end)
    }
    const resumed = await call('GET', '/v2/events/stream', undefined, { 'last-event-id': '999999999' })
    assert.equal(resumed.body.code, 'events_ahead')
  })

  test('filters by type and resource; next_after passes over filtered events', async () => {
    const begin = await lastOf()
    const [one, other] = [await create(), await create()]
    await call('PUT', `/v2/instances/${one}`, { tags: { a: '1' } })
    await call('PUT', `/v2/instances/${other}`, { tags: { a: '1' } })
    const end = await lastOf()
    const typesOf = async (query: string) => {
      const { body } = await call('GET', `/v2/events?after=${begin}&${query}`)
      assert.ok(body.next_after >= end)
      return body.data.map((event: any) => [event.type, event.data.object.id])
    }
    const [created, updated] = ['instance.created', 'instance.updated']
    const rows = (type: string, ids: string[]) => ids.map((id) => [type, id])
    assert.deepEqual(await typesOf('type=instance.updated'), rows(updated, [one, other]))
    assert.deepEqual(await typesOf('type=webhook.*'), [])
    assert.deepEqual(await typesOf(`resource=${one}&type=instance.updated,instance.created`), [
      ...rows(created, [one]),
      ...rows(updated, [one]),
    ])
    const all = await call('GET', `/v2/events?after=${begin}`)
    for (const query of ['type=*', 'type=instance.*', 'type=instance.*,instance.created']) {
      const { body } = await call('GET', `/v2/events?after=${begin}&${query}`)
      assert.deepEqual(body.data, all.body.data, query)
    }
    const both = await call('GET', `/v2/events?type=instance.created,instance.updated&limit=2`)
    assert.equal(sequences(both.body).length, 2)
    assert.ok(both.body.data[0].sequence > both.body.data[1].sequence)
    const newest = sequences(both.body)
    const more = await call(
      'GET',
      `/v2/events?type=instance.created,instance.updated&limit=2&cursor=${both.body.pagination.next_cursor}`,
    )
    assert.ok(sequences(more.body)[0]! < newest[1]!)
    const wrong = await call('GET', '/v2/events?type=instance.redy&after=-1')
    assert.deepEqual([wrong.status, wrong.body.errors.length], [400, 2])
  })

  test('lists the events of one instance until its row is deleted', async () => {
    const id = await create()
    await create()
    const { body } = await call('GET', `/v2/instances/${id}/events?after=0`)
    assert.deepEqual(
      body.data.map((event: any) => [event.type, event.data.object.id]),
      [['instance.created', id]],
    )
    assert.equal((await call('GET', '/v2/instances/inst_zzzzzzzzzz/events')).status, 404)
  })
})

describe('an event', () => {
  test('has the same bytes in the list and in GET /v2/events/{id}, and they never change', async () => {
    const id = await create(call, { tags: { odd: '\\u0041 "☃"' } })
    const list = await textOf(`/v2/events?resource=${id}&sort=created_at`)
    await call('PUT', `/v2/instances/${id}`, { tags: { now: 'others' } })
    const [event] = JSON.parse(list).data
    const single = await textOf(`/v2/events/${event.id}`)
    assert.ok(list.startsWith(`{"data":[${single}`), list)
    assert.ok(single.includes('"object":{"object":"instance",'))
    const { headers } = await call('GET', `/v2/events/${event.id}`)
    assert.equal(
      (await call('GET', `/v2/events/${event.id}`, undefined, { 'if-none-match': headers.etag! })).status,
      304,
    )
  })

  test('has in previous the old values of the fields that changed', async () => {
    const id = await create(call, { tags: { team: 'a' } })
    const before = (await call('GET', `/v2/instances/${id}`)).body
    await call('PUT', `/v2/instances/${id}`, { tags: { team: 'b' } })
    await call('PUT', `/v2/instances/${id}`, { tags: { team: 'b' } })
    const { body } = await call('GET', `/v2/events?resource=${id}&type=instance.updated`)
    assert.equal(body.data.length, 1, 'a request that changes nothing emits no event')
    const { data } = body.data[0]
    assert.deepEqual(data.previous, { tags: { team: 'a' } })
    assert.deepEqual(data.object.tags, { team: 'b' })
    assert.ok(data.object.version > before.version)
    const { body: made } = await call('GET', `/v2/events?resource=${id}&type=instance.created`)
    assert.ok(!('previous' in made.data[0].data), 'a new instance has no previous values')
  })

  test('instance.scaled has both sizes, for a running and for a stopped instance', async () => {
    const id = await create()
    await world.pass(id, 'running')
    const sizes = (plan: string) => {
      const { id, ...size } = world.deps.config.plans.find((each) => each.id === plan)!
      return { plan: id, ...size }
    }
    await call('PUT', `/v2/instances/${id}?allow_reboot=true`, { plan: 'standard-4x' })
    await world.pass(id, 'running')
    await call('POST', `/v2/instances/${id}/actions/stop`, { force: true })
    await world.pass(id, 'stopped')
    await call('PUT', `/v2/instances/${id}`, { plan: 'standard-8x' })
    await world.pass(id, 'stopped')
    const { body } = await call('GET', `/v2/events?resource=${id}&type=instance.scaled&sort=created_at`)
    assert.deepEqual(
      body.data.map((event: any) => event.data.details),
      [
        { from: sizes('micro-1x'), to: sizes('standard-4x') },
        { from: sizes('standard-4x'), to: sizes('standard-8x') },
      ],
    )
    const others = await call('GET', `/v2/events?resource=${id}&type=instance.created,instance.stopped`)
    for (const event of others.body.data) assert.ok(!('details' in event.data), event.type)
  })

  test('instance.scaled is emitted when the change also stops the instance', async () => {
    const id = await create()
    await world.pass(id, 'running')
    await call('PATCH', `/v2/instances/${id}`, { plan: 'standard-4x', desired_status: 'stopped' })
    await world.pass(id, 'stopped')
    await call('POST', `/v2/instances/${id}/actions/start`)
    await world.pass(id, 'running')
    const { body } = await call('GET', `/v2/events?resource=${id}&after=0`)
    const types = body.data.map(({ type }: any) => type.replace('instance.', ''))
    assert.deepEqual(types, ['created', 'ready', 'scaled', 'stopped', 'started'])
  })
})

describe('visibility', () => {
  const keyOf = async (scopes: Scope[]) =>
    caller(world.app, (await createTestKey(world.deps, world.test.principal, scopes)).key)

  test('a key reads only events of resources that it may read, with gaps in the sequence', async () => {
    const begin = await lastOf()
    const id = await create()
    const { environment_id, mode } = world.test.principal
    await withOutbox(world.deps, { environment_id, mode }, async (_tx, outbox) => {
      const object = { object: 'webhook' as const, id: 'wh_1' }
      outbox.events.push({ type: 'webhook.ping', resource_id: object.id, request_id: null, data: { object } })
    })
    await create()
    const seen = async (by: Call) => {
      const { body } = await by('GET', `/v2/events?after=${begin}`)
      assert.ok(body.next_after >= begin + 3)
      return body.data.map(({ type }: any) => type).filter((type: string) => /created|ping/.test(type))
    }
    const [created, ping] = ['instance.created', 'webhook.ping']
    assert.deepEqual(await seen(call), [created, ping, created])
    assert.deepEqual(await seen(await keyOf(['events:read', 'instances:read'])), [created, created])
    assert.deepEqual(await seen(await keyOf(['events:read', 'webhooks:read'])), [ping])
    const blind = await keyOf(['events:read'])
    assert.deepEqual(await seen(blind), [])
    const [event] = (await call('GET', `/v2/events?resource=${id}`)).body.data
    assert.equal((await blind('GET', `/v2/events/${event.id}`)).status, 404)
    const without = await keyOf(['instances:read'])
    assert.equal((await without('GET', '/v2/events')).body.required_scope, 'events:read')
    assert.equal((await without('GET', `/v2/instances/${id}/events`)).body.data[0].type, created)
  })

  test('events of another project return 404, and its sequence is its own', async () => {
    const otherTenant = caller(world.app, (await world.tenant()).test.key)
    const id = await create()
    const [event] = (await call('GET', `/v2/events?resource=${id}`)).body.data
    const { body } = await otherTenant('GET', '/v2/events?after=0')
    assert.deepEqual([body.data, body.next_after], [[], 0])
    assert.deepEqual((await otherTenant('GET', `/v2/events?resource=${id}`)).body.data, [])
    assert.equal((await otherTenant('GET', `/v2/events/${event.id}`)).status, 404)
    assert.equal((await otherTenant('GET', `/v2/instances/${id}/events`)).status, 404)
    await create(otherTenant)
    assert.deepEqual(sequences((await otherTenant('GET', '/v2/events')).body).at(-1), 1)
  })
})

describe('retention', () => {
  /** A tenant whose only events are pings, and whose clock can be advanced. */
  async function quietTenant() {
    const { principal, key } = (await world.tenant()).test
    const { environment_id } = principal
    const call = caller(world.app, key)
    const ping = () =>
      withOutbox(world.deps, principal, async (_tx, outbox) => {
        const data = { object: { object: 'webhook' as const } }
        outbox.events.push({ type: 'webhook.ping', resource_id: 'wh_1', request_id: null, data })
      })
    const advance = (days: number) => world.owner`
      update environments set clock_offset = clock_offset + make_interval(days => ${days}) where id = ${environment_id}`
    return { call, ping, advance }
  }

  /** Runs the job until an environment has this number of events. */
  async function purgeUntil(call: Call, count: number): Promise<void> {
    await wake(world.deps.sql, 'job', 'purge-events', 'env_system')
    world.engine.nudge()
    const isPurged = async () => (await call('GET', '/v2/events')).body.data.length === count
    await until(`the job has left ${count} events`, isPurged)
  }

  test('deletes events after 30 days of environment time; a resume before them returns 410 with oldest_sequence', async () => {
    const { call, ping, advance } = await quietTenant()
    await ping()
    await ping()
    await advance(29)
    await ping()
    assert.deepEqual(sequences((await call('GET', '/v2/events?after=0')).body), [1, 2, 3])
    await advance(2)
    await purgeUntil(call, 1)
    assert.deepEqual(sequences((await call('GET', '/v2/events?after=2')).body), [3])
    const expired = await call('GET', '/v2/events?after=1')
    assert.deepEqual([expired.status, expired.body.code, expired.body.oldest_sequence], [410, 'events_expired', 3])
    const stream = await call('GET', '/v2/events/stream?after=1')
    assert.deepEqual([stream.status, stream.body.oldest_sequence], [410, 3])
    const resumed = await call('GET', '/v2/events/stream', undefined, { 'last-event-id': '0' })
    assert.deepEqual([resumed.status, resumed.body.code], [410, 'events_expired'])
    assert.equal((await call('GET', '/v2/events/stream?after=2')).status, 200)
    assert.deepEqual(sequences((await call('GET', '/v2/events?sort=created_at')).body), [3])
  })

  test('when all events are deleted, oldest_sequence is the next number', async () => {
    const { call, ping, advance } = await quietTenant()
    await ping()
    await ping()
    await advance(31)
    await purgeUntil(call, 0)
    const { status, body } = await call('GET', '/v2/events?after=2')
    assert.deepEqual([status, body.data, body.next_after], [200, [], 2])
    const expired = await call('GET', '/v2/events?after=1')
    assert.deepEqual([expired.status, expired.body.oldest_sequence], [410, 3])
    await ping()
    assert.deepEqual(sequences((await call('GET', '/v2/events?after=2')).body), [3])
  })

  test('never deletes an event after a newer one, even when the clock was set back', async () => {
    const { call, ping, advance } = await quietTenant()
    await ping()
    await advance(-40)
    await ping()
    await advance(50)
    await ping()
    await purgeEvents(world.deps.sql, 30)
    assert.deepEqual(sequences((await call('GET', '/v2/events?after=0')).body), [1, 2, 3])
  })
})
