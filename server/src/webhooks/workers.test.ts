/** Webhooks with several engines, with a lost worker, and across keys and tenants. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createEngines } from '../engine/pools.ts'
import { claim, wake } from '../engine/work.ts'
import { deliveryIdOf } from '../events/deliveries.ts'
import { withOutbox } from '../events/outbox.ts'
import { caller, createTestKey } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { pools } from '../reconcilers.ts'
import { BUDGET } from './attempt.ts'
import { webhookReconciler } from './reconcile.ts'
import { createReceiver, eventually, type Receiver } from './testing.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const MANY = Number(process.env.WEBHOOK_EVENTS ?? 2_000)

let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())
const call: World['callTest'] = (...args) => world.callTest(...args)
const emit = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i += 20) {
    await Promise.all(Array.from({ length: Math.min(20, count - i) }, () => call('POST', '/v2/instances', BODY)))
  }
}
/** Emits events without creating their instances. */
async function emitOnly(count: number): Promise<void> {
  for (let i = 0; i < count; i += 50) {
    await withOutbox(world.deps, world.test.principal, async (_tx, outbox) => {
      for (let n = i; n < Math.min(count, i + 50); n++) {
        const object = { object: 'instance' as const, id: 'inst_0123456789', version: n + 1 }
        outbox.events.push({
          ...{ type: 'instance.created', resource_id: object.id, request_id: null },
          data: { object },
        })
      }
    })
  }
}
async function hook(receiver: Receiver, fields: object = {}, as = call): Promise<any> {
  const { status, body } = await as('POST', '/v2/webhooks', {
    ...{ url: receiver.url, events: ['instance.created'] },
    ...fields,
  })
  assert.equal(status, 201, JSON.stringify(body))
  receiver.secrets = [body.secret]
  return body
}
const end = (id: string) => call('DELETE', `/v2/webhooks/${id}`)
const one = async (id: string): Promise<any> => (await call('GET', `/v2/webhooks/${id}`)).body
const deliveries = async (id: string, query = ''): Promise<any[]> =>
  (await call('GET', `/v2/webhooks/${id}/deliveries?limit=100${query}`)).body.data

/** Runs a periodic job. */
async function run(job: string): Promise<void> {
  await wake(world.deps.sql, 'job', job, 'env_system')
  world.engine.nudge()
}

function secondEngine(worker: string, others: Partial<World['deps']> = {}) {
  const { sql } = world.deps
  const options = { sql, clock: systemClock, log: silentLog, worker, poll_ms: 50 }
  return createEngines(options, pools({ ...world.deps, ...others }))
}

describe('several workers', { timeout: 300_000 }, () => {
  test(`two engines send ${MANY} events once each while one endpoint fails and another hangs`, async () => {
    const engine = secondEngine('second')
    await engine.start()
    const [receiver, failing] = [
      await createReceiver(),
      await createReceiver((response) => response.writeHead(500).end()),
    ]
    const { id } = await hook(receiver)
    const bad = await hook(failing)
    const hanging = await createReceiver(() => {})
    const stuck = await hook(hanging)
    await emitOnly(MANY)
    await receiver.reach(MANY, 240_000)
    await eventually(async () => (await deliveries(id, '&status=pending')).length === 0, 'all')
    await eventually(() => failing.count() === MANY, 'a first attempt of each', 240_000)
    assert.ok(hanging.count() < MANY)
    await end(stuck.id)
    hanging.close()
    await engine.stop(20_000)
    assert.deepEqual([receiver.count(), receiver.rejected], [MANY, []], 'nothing is sent twice')
    assert.equal(new Set(receiver.received.map((each) => each.id)).size, MANY)
    // Deliveries can arrive out of order; gaps between sequence numbers belong to other types.
    assert.equal(new Set(receiver.received.map(({ event }) => event.sequence)).size, MANY)
    assert.ok(receiver.received.every(({ event }) => Number.isInteger(event.data.object.version)))
    const [doubled] = await world.owner<{ count: number }[]>`
      select count(*) from (select event_id from webhook_deliveries where webhook_id in (${id}, ${bad.id})
        group by webhook_id, event_id having count(*) > 1) as twice`
    assert.equal(doubled!.count, 0)
    await end(id)
    await end(bad.id)
  })

  for (const late of [500, 410]) {
    test(`a delivery of a lost worker is sent again, and a ${late} that the lost worker receives late is not recorded`, async () => {
      // Includes the webhooks that other tests deleted.
      await eventually(async () => (await world.owner`select from work where kind = 'webhook'`).count === 0, 'rest')
      await world.engine.stop(5_000)
      const answers: (() => void)[] = []
      const receiver = await createReceiver((response, n) => {
        if (n === 1) answers.push(() => response.writeHead(late).end())
        else response.writeHead(204).end()
      })
      const { id } = await hook(receiver)
      try {
        await emit(1)
        // Claims the key as an engine does, and never releases it.
        const [claimed] = await claim(world.deps.sql, 'lost', ['webhook'], 1)
        assert.equal(claimed!.id, id)
        const pass = pools(world.deps)[1]!.reconcilers.webhook!(claimed!)
        await receiver.reach(1)
        await world.owner`update work set leased_until = now() - interval '1 second' where id = ${id}`
        const engine = secondEngine('heir')
        await engine.start()
        await receiver.reach(2)
        await eventually(async () => (await deliveries(id))[0].status === 'succeeded', 'a success')
        answers[0]!()
        await assert.rejects(pass, /lease/)
        const [delivery] = await deliveries(id)
        assert.deepEqual([delivery.status, delivery.attempt_count], ['succeeded', 1])
        assert.equal(receiver.received[0]!.id, receiver.received[1]!.id)
        assert.equal((await one(id)).enabled, true)
        await engine.stop(5_000)
      } finally {
        await world.engine.start()
      }
      await end(id)
    })
  }

  test('an endpoint that hangs frees its worker slot after one request per connection slot', async () => {
    await eventually(async () => (await world.owner`select from work where kind = 'webhook'`).count === 0, 'rest')
    await world.engine.stop(5_000)
    const hanging = await createReceiver(() => {})
    const { id } = await hook(hanging)
    try {
      await emitOnly(40)
      const [claimed] = await claim(world.deps.sql, 'test', ['webhook'], 1)
      const deps = { ...world.deps, sql: world.deps.sql.as(claimed!.environment_id) }
      const result = await webhookReconciler(deps, { ...BUDGET, attempt_ms: 1_200 })(claimed!)
      assert.deepEqual([result.after_seconds, hanging.count()], [0, 5])
      assert.equal((await deliveries(id, '&status=pending')).length, 40)
    } finally {
      await world.owner`update work set leased_until = null, leased_by = null where kind = 'webhook'`
      await world.engine.start()
      await end(id)
      hanging.close()
    }
  })

  test('a request that is aborted because the process stops does not count as an attempt', async () => {
    await eventually(async () => (await world.owner`select from work where kind = 'webhook'`).count === 0, 'rest')
    await world.engine.stop(5_000)
    try {
      const receiver = await createReceiver((response, n) => {
        if (n > 1) response.writeHead(204).end()
      })
      const { id } = await hook(receiver)
      await emit(1)
      const stopping = new AbortController()
      const engine = secondEngine('stopping', { stopping: stopping.signal })
      await engine.start()
      await receiver.reach(1)
      stopping.abort()
      await engine.stop(20_000)
      const [delivery] = await deliveries(id)
      assert.deepEqual([delivery.status, delivery.attempt_count], ['pending', 0])
      const heir = secondEngine('heir')
      await heir.start()
      await receiver.reach(2)
      await eventually(async () => (await deliveries(id))[0].status === 'succeeded', 'a success')
      assert.equal((await deliveries(id))[0].attempt_count, 1)
      await heir.stop(5_000)
      await end(id)
    } finally {
      await world.engine.start()
    }
  })

  test('a transaction that is rolled back leaves no event and no delivery', async () => {
    const receiver = await createReceiver()
    const { id } = await hook(receiver)
    const preview = await call('POST', '/v2/instances?dry_run=true', BODY)
    assert.ok(preview.status < 300, JSON.stringify(preview.body))
    await emit(1)
    await receiver.reach(1)
    assert.equal((await deliveries(id)).length, 1)
    const [delivery] = await deliveries(id)
    assert.equal(delivery.id, deliveryIdOf(delivery.event_id, id), 'SQL computes the same ID')
    await end(id)
  })
})

describe('permissions', { timeout: 120_000 }, () => {
  const keyOf = async (...scopes: any[]) => {
    const made = await createTestKey(world.deps, world.test.principal, scopes)
    return { ...made, call: caller(world.app, made.key), id: made.principal.key_id }
  }
  const EXAMPLE = { url: 'https://hooks.test/', events: ['instance.created'] }

  test('returns 403 when a key creates or redirects a webhook of events that it may not read', async () => {
    const narrow = await keyOf('webhooks:read', 'webhooks:write')
    for (const [events, missing] of [
      [['instance.created'], ['instances:read']],
      [['instance.*'], ['instances:read']],
      [['webhook.ping', 'instance.failed'], ['instances:read']],
      [['api_key.expiring'], ['keys:read']],
      [['*'], ['instances:read', 'keys:read']],
    ]) {
      const { status, body } = await narrow.call('POST', '/v2/webhooks', { ...EXAMPLE, events })
      assert.deepEqual([status, body.code, body.missing_scopes], [403, 'insufficient_scope', missing])
    }
    const own = await narrow.call('POST', '/v2/webhooks', { ...EXAMPLE, events: ['webhook.*'] })
    assert.equal(own.status, 201)
    const { body: foreign } = await call('POST', '/v2/webhooks', EXAMPLE)
    for (const change of [{ url: 'https://mine.test/' }, { events: ['instance.*'] }]) {
      assert.equal((await narrow.call('PUT', `/v2/webhooks/${foreign.id}`, change)).status, 403)
    }
    assert.equal((await narrow.call('PUT', `/v2/webhooks/${foreign.id}`, { enabled: false })).status, 200)
    assert.equal((await narrow.call('PUT', `/v2/webhooks/${foreign.id}`, { enabled: true })).status, 403)
    assert.equal((await narrow.call('PUT', `/v2/webhooks/${foreign.id}`, { description: 'x' })).status, 200)
    assert.equal((await one(foreign.id)).key_id, world.test.principal.key_id)
    await end(own.body.id)
    await end(foreign.id)
  })

  test('a removed scope, a rotation and the revocation of the key apply to the next delivery', async () => {
    const receiver = await createReceiver()
    const maker = await keyOf('webhooks:read', 'webhooks:write', 'instances:read')
    const { id } = await hook(receiver, { events: ['instance.*', 'webhook.*'] }, maker.call)
    const statusOf = async () => (await deliveries(id, '&type=instance.created'))[0]
    await emit(1)
    await receiver.reach(1)
    await call('PUT', `/v2/api_keys/${maker.id}`, { scopes: ['webhooks:read'] })
    await systemClock.sleep(1_100)
    await emit(1)
    await eventually(async () => (await statusOf()).status === 'cancelled', 'a cancelled delivery')
    assert.equal((await statusOf()).reason, 'scope')
    await call('PUT', `/v2/api_keys/${maker.id}`, { scopes: ['webhooks:read', 'instances:read'] })
    const { body: heir } = await call('POST', `/v2/api_keys/${maker.id}/rotate`, { overlap_seconds: 0 })
    await systemClock.sleep(1_100)
    await emit(1)
    await receiver.reach(2)
    assert.equal((await one(id)).key_id, maker.id, 'the successor of the key applies')
    await call('DELETE', `/v2/api_keys/${heir.id}`)
    await systemClock.sleep(1_100)
    await emit(1)
    await eventually(async () => !(await one(id)).enabled, 'the webhook is disabled')
    assert.equal((await one(id)).disabled_reason, 'key_ended')
    await eventually(async () => (await statusOf()).status === 'cancelled', 'the pending delivery is cancelled')
    assert.equal(receiver.count(), 2)
    // The key that enables the webhook becomes its key.
    assert.equal((await call('PUT', `/v2/webhooks/${id}`, { enabled: true })).body.key_id, world.test.principal.key_id)
    await emit(1)
    await receiver.reach(3)
    await end(id)
  })

  test('events and webhooks of one tenant are not visible to another', async () => {
    const other = await world.tenant()
    const asOther = caller(world.app, other.test.key)
    const [mine, theirs] = [await createReceiver(), await createReceiver()]
    const { id } = await hook(mine, { events: ['*'] })
    await hook(theirs, { events: ['*'] }, asOther)
    await emit(1)
    await asOther('POST', '/v2/instances', BODY)
    await mine.reach(1)
    await theirs.reach(1)
    const ours = new Set(mine.received.map(({ event }) => event.data.object.id))
    assert.ok(theirs.received.every(({ event }) => !ours.has(event.data.object.id)))
    for (const as of [asOther, caller(world.app, world.live.key)]) {
      assert.equal((await as('GET', `/v2/webhooks/${id}`)).status, 404)
      assert.equal((await as('GET', `/v2/webhooks/${id}/deliveries`)).status, 404)
    }
    await end(id)
  })

  test('returns 422 with the same text for every URL that is not allowed', async () => {
    const texts = new Set<string>()
    const { body: kept } = await call('POST', '/v2/webhooks', EXAMPLE)
    for (const url of [
      ...[
        'http://10.0.0.1/',
        'http://169.254.169.254/',
        'https://[fd00::1]/',
        'http://8.8.8.8/',
        'https://hooks.test:22/',
      ],
      ...['ftp://hooks.test/', 'https://user:pw@hooks.test/', 'https://hooks.test/#x', 'x', 'https://localhost:22/'],
    ]) {
      const made = await call('POST', '/v2/webhooks', { ...EXAMPLE, url })
      const changed = await call('PUT', `/v2/webhooks/${kept.id}`, { url })
      assert.deepEqual([made.status, changed.status], [422, 422], url)
      assert.deepEqual(made.body.errors, changed.body.errors)
      texts.add(JSON.stringify(made.body.errors))
    }
    assert.equal(texts.size, 1)
    assert.match([...texts][0]!, /destination not allowed/)
    await end(kept.id)
  })

  test('returns 409 at the maximum number of webhooks, also for concurrent requests', async () => {
    const made = await Promise.all(Array.from({ length: 60 }, () => call('POST', '/v2/webhooks', EXAMPLE)))
    const { body } = await call('GET', '/v2/webhooks?limit=100')
    assert.equal(body.data.length, 50)
    const refused = made.filter(({ status }) => status !== 201)
    assert.ok(refused.length >= 10 && refused.every(({ status, body }) => status === 409 && body.code === 'conflict'))
    for (const { id } of body.data) await end(id)
  })
})

describe('the delivery log', { timeout: 120_000 }, () => {
  test('a replay is spread over time, after new events', async () => {
    const receiver = await createReceiver()
    const { id } = await hook(receiver)
    await emit(60)
    await receiver.reach(60)
    const range = { from_sequence: 1, to_sequence: 1_000_000 }
    const [first] = await world.owner<{ count: number }[]>`
      select count(*) from events where environment_id = ${world.test.principal.environment_id} and type = 'instance.created'`
    const { body } = await call('POST', `/v2/webhooks/${id}/replay`, range)
    assert.equal(body.deliveries, Math.min(10_000, first!.count))
    await emit(1)
    await receiver.reach(61)
    assert.equal(receiver.received.at(-1)!.event.type, 'instance.created')
    assert.equal(receiver.count(), 61, 'nothing is due while time is frozen')
    await world.advance(1)
    await receiver.reach(61 + 20)
    await systemClock.sleep(300)
    assert.equal(receiver.count(), 61 + 20, '20 per second')
    for (const wrong of [
      {},
      { from_sequence: 2 },
      { to_sequence: 2 },
      { ...range, failed_since: '2030-01-01T00:00:00Z' },
    ]) {
      assert.equal((await call('POST', `/v2/webhooks/${id}/replay`, wrong)).status, 422, JSON.stringify(wrong))
    }
    await end(id)
  })

  test('the sweep wakes a webhook that has pending deliveries but no work row', async () => {
    const receiver = await createReceiver((response, n) => response.writeHead(n === 1 ? 500 : 200).end())
    const { id } = await hook(receiver)
    await emit(1)
    await receiver.reach(1)
    const work = () => world.owner`select from work where id = ${id} and leased_by is null`
    await eventually(async () => (await work()).count === 1, 'the work row of the next attempt')
    await world.owner`delete from work where id = ${id}`
    await world.advance(7)
    await run('requeue-webhooks')
    await receiver.reach(2)
    await end(id)
  })

  test('a webhook receives the event of a key that is about to end', async () => {
    const receiver = await createReceiver()
    const { id } = await hook(receiver, { events: ['api_key.expiring'] })
    const { body: key } = await call('POST', '/v2/api_keys', { name: 'ci', scopes: ['keys:read'] })
    await world.owner`update api_keys set expires_at = now() + interval '6 days' where id = ${key.id}`
    await run('report-expiring-keys')
    await receiver.reach(1)
    const { event } = receiver.received[0]!
    assert.deepEqual(
      [event.type, event.data.object.object, event.data.object.id],
      ['api_key.expiring', 'api_key', key.id],
    )
    assert.ok(!receiver.received[0]!.body.includes(key.key.slice(15, 43)))
    await end(id)
  })

  test('deliveries past their retention are deleted with their attempts', async () => {
    const receiver = await createReceiver()
    const { id } = await hook(receiver)
    await emit(2)
    await eventually(async () => (await deliveries(id, '&status=succeeded')).length === 2, 'both')
    const [old] = await deliveries(id)
    await world.owner`update webhook_deliveries set recorded_at = now() - interval '31 days' where id = ${old.id}`
    await run('purge-deliveries')
    await eventually(async () => (await deliveries(id)).length === 1, 'the purge')
    assert.equal((await world.owner`select from webhook_attempts where delivery_id = ${old.id}`).count, 0)
    await end(id)
  })
})
