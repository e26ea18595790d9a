/** The request log over HTTP: what is recorded, which keys can read it, and the trace of a create on a simulated machine. */
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { caller, createTestKey } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { systemClock } from '../lib/clock.ts'
import { until } from '../testing/until.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())

const call: World['callTest'] = (...args) => world.callTest(...args)
const list = async (query: string, as = call): Promise<any[]> => {
  const { status, body } = await as('GET', `/v2/requests?${query}`)
  assert.equal(status, 200, JSON.stringify(body))
  return body.data
}
/** Creates an instance with this X-Request-ID and advances time until its guest is ready. */
async function createRunning(requestId: string): Promise<any> {
  const { body } = await call('POST', '/v2/instances', BODY, { 'x-request-id': requestId })
  await untilSpan(requestId, 'boot')
  await world.advance(20)
  return world.reach(body.id, 'running')
}
const trace = async (id: string): Promise<any> => (await call('GET', `/v2/requests/${id}`)).body
const spans = async (id: string): Promise<any[]> => (await trace(id)).spans
const untilSpan = (id: string, kind: string) =>
  until(`${id} has a span ${kind}`, async () => (await spans(id)).some((span) => span.kind === kind))

describe('the request log', { timeout: 120_000 }, () => {
  test('finds a request immediately after its response, by ID and by X-Request-ID', async () => {
    const made = await call('POST', '/v2/instances', BODY, { 'x-request-id': 'mine', 'user-agent': 'shop/1.0 \x7f' })
    const found = await trace('mine')
    assert.match(found.id, /^req_[0-9a-z]{20}$/)
    assert.match(found.created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    assert.ok(Math.abs(Date.parse(found.created_at) - systemClock.now().getTime()) < 60_000, 'real time')
    assert.ok(found.duration_ms > 0)
    const { spans: _, created_at: __, duration_ms: ___, ...rest } = found
    assert.deepEqual(rest, {
      id: found.id,
      request_id: 'mine',
      method: 'POST',
      route: '/v2/instances',
      resource: made.body.id,
      key_id: world.test.principal.key_id,
      status: 201,
      code: null,
      address: '127.0.0.1',
      user_agent: 'shop/1.0 ?',
      aborted: false,
      sampled: false,
      sample_rate: 1,
      others: [],
    })
    assert.equal((await trace(found.id)).request_id, 'mine')
  })

  test('records failures with their error codes', async () => {
    const missing = await call('GET', '/v2/instances/inst_0000000000', undefined, { 'x-request-id': 'missing' })
    assert.equal(missing.status, 404)
    await call('POST', '/v2/instances', { ...BODY, plan: 7 }, { 'x-request-id': 'mistyped' })
    await call('POST', '/v2/instances', '{', { 'x-request-id': 'broken' })
    await call('PATCH', '/v2/regions', undefined, { 'x-request-id': 'no-method' })
    const narrow = await createTestKey(world.deps, world.test.principal, ['requests:read'])
    await caller(world.app, narrow.key)('POST', '/v2/instances', BODY, { 'x-request-id': 'scope' })
    const told = async (id: string) => {
      const { status, code, route, resource, key_id } = await trace(id)
      return [status, code, route, resource, key_id]
    }
    const { key_id } = world.test.principal
    assert.deepEqual(await told('missing'), [404, 'not_found', '/v2/instances/:id', 'inst_0000000000', key_id])
    assert.deepEqual(await told('mistyped'), [422, 'validation_failed', '/v2/instances', null, key_id])
    assert.deepEqual(await told('broken'), [400, 'malformed_json', '/v2/instances', null, key_id])
    const { key_id: narrowId } = narrow.principal
    assert.deepEqual(await told('scope'), [403, 'insufficient_scope', '/v2/instances', null, narrowId])
    // Without a route no key is checked, so the request belongs to no environment.
    assert.equal((await call('GET', '/v2/requests/no-method')).status, 404)
    await call('GET', '/v2/%E0', undefined, { 'x-request-id': 'no-address' })
    assert.equal((await call('GET', '/v2/requests/no-address')).status, 404)
    const rows = await world.owner`
      select environment_id, status, route, code from requests where request_id in ('no-method', 'no-address') order by ordinal`
    assert.deepEqual(
      rows.map((row) => Object.values(row)),
      [
        [null, 405, null, 'method_not_allowed'],
        [null, 400, null, 'bad_request'],
      ],
    )
  })

  test('returns the newest request of a reused X-Request-ID, and lists the others', async () => {
    for (const path of ['/v2/regions', '/v2/plans', '/v2/images']) {
      await call('GET', path, undefined, { 'x-request-id': 'again' })
    }
    const found = await trace('again')
    assert.equal(found.route, '/v2/images')
    assert.deepEqual(
      found.others.map((other: any) => other.route),
      ['/v2/plans', '/v2/regions'],
    )
    const older = await trace(found.others[1].id)
    assert.equal(older.route, '/v2/regions')
    assert.deepEqual(
      older.others.map((other: any) => other.route),
      ['/v2/images', '/v2/plans'],
    )
  })

  test('the trace of a POST extends from the call to ready without gaps, and its events carry its ID', async () => {
    const { id } = await createRunning('story')
    const found = await trace('story')
    const own = found.spans.filter((span: any) => span.parent === null)
    assert.deepEqual(
      own.filter((span: any) => span.kind !== 'event').map((span: any) => `${span.kind} ${span.name}`),
      [
        'call POST /v2/instances',
        ...['queue queue', 'step create', 'queue queue', 'step start', 'boot boot', 'ready running'],
      ],
    )
    for (const span of found.spans) assert.deepEqual([span.resource, span.status], [id, 'ok'])
    const ready = own.find((span: any) => span.kind === 'ready')
    const until = Date.parse(ready.started_at) + ready.duration_ms - Date.parse(found.created_at)
    const sum = own.reduce((sum: number, span: any) => sum + span.duration_ms, 0)
    assert.ok(Math.abs(sum - until) < 1, `${sum} ms of spans in ${until} ms`)

    const inside = found.spans.filter((span: any) => span.kind === 'transaction')
    assert.equal(inside.length, 1)
    assert.equal(inside[0].parent, 'POST /v2/instances')
    assert.ok(inside[0].duration_ms > 0 && inside[0].duration_ms <= found.duration_ms)

    const told = found.spans.filter((span: any) => span.kind === 'event')
    assert.deepEqual(
      told.map((span: any) => span.name),
      ['instance.created', 'instance.ready'],
    )
    const rows = await world.owner`select id, sequence, request_id from events where resource_id = ${id} order by 2`
    assert.deepEqual(
      told.map((span: any) => span.detail),
      rows.map((row) => ({ event_id: row.id, sequence: row.sequence })),
    )
    assert.deepEqual(new Set(rows.map((row) => row.request_id)), new Set(['story']))
  })

  test('each trace contains the effects of its request: the steps of a stop, the code of a failure', async () => {
    const { id } = await createRunning('life')
    const before = (await spans('life')).length
    await call('POST', `/v2/instances/${id}/actions/stop`, undefined, { 'x-request-id': 'halt' })
    await untilSpan('halt', 'shutdown')
    await world.advance(5)
    await world.reach(id, 'stopped')
    const kinds = (await spans('halt')).filter((span) => span.kind !== 'transaction').map((span) => span.name)
    assert.deepEqual(kinds, [
      'POST /v2/instances/:id/actions/stop',
      ...['queue', 'power_down', 'shutdown', 'stopped', 'instance.stopped'],
    ])
    assert.equal((await spans('life')).length, before)

    const tags = { simulate: 'no_capacity' }
    const { body } = await call('POST', '/v2/instances', { ...BODY, tags }, { 'x-request-id': 'full' })
    await world.reach(body.id, 'failed')
    await until('the trace is complete', async () => (await spans('full')).length >= 5)
    const step = (await spans('full')).find((span) => span.name === 'create')
    assert.deepEqual([step.status, step.detail], ['failed', { code: 'host_full' }])
  })

  test('a recovery and a guest that powers off belong to no request', async () => {
    const tags = { simulate: 'crash_once' }
    const { body } = await call('POST', '/v2/instances', { ...BODY, tags }, { 'x-request-id': 'crashes' })
    await until('the instance has recovered', async () => {
      await world.advance(5)
      const events = await world.owner`
        select from events where resource_id = ${body.id} and type = 'instance.recovered'`
      return events.count > 0
    })
    const names = (await spans('crashes')).map((span) => span.name)
    assert.equal(names.filter((name) => name === 'start').length, 1)
    assert.ok(!names.includes('instance.recovering') && !names.includes('instance.recovered'))

    const off = await call('POST', '/v2/instances', { ...BODY, tags: { simulate: 'guest_powers_off' } })
    await until('the guest has powered off', async () => {
      await world.advance(5)
      return (await call('GET', `/v2/instances/${off.body.id}`)).body.status === 'stopped'
    })
    const [event] = await world.owner`
      select request_id from events where resource_id = ${off.body.id} and type = 'instance.stopped'`
    assert.equal(event!.request_id, null)
  })

  test('filters, alone and combined, and rejects unknown filters by name', async () => {
    const id = 'inst_000000000f'
    await call('GET', `/v2/instances/${id}`)
    await call('DELETE', `/v2/instances/${id}`)
    await call('POST', `/v2/instances/${id}/actions/start`, { no: 1 }, { 'x-request-id': 'filtered' })
    const begin = systemClock.now().toISOString()
    const methods = async (query: string) => (await list(`resource=${id}&${query}`)).map((row) => row.method)
    assert.deepEqual(await methods(''), ['POST', 'DELETE', 'GET'])
    assert.deepEqual(await methods('sort=created_at'), ['GET', 'DELETE', 'POST'])
    assert.deepEqual(await methods('method=GET,DELETE'), ['DELETE', 'GET'])
    assert.deepEqual(await methods('status=4xx'), ['POST', 'DELETE', 'GET'])
    assert.deepEqual(await methods('status=404'), ['DELETE', 'GET'])
    assert.deepEqual(await methods('status=422,2xx'), ['POST'])
    assert.deepEqual(await methods('status=5xx'), [])
    assert.deepEqual(await methods('code=not_found'), ['DELETE', 'GET'])
    assert.deepEqual(await methods('route=/v2/instances/:id'), ['DELETE', 'GET'])
    assert.deepEqual(await methods('request_id=filtered'), ['POST'])
    assert.deepEqual(await methods(`key=${world.test.principal.key_id}`), ['POST', 'DELETE', 'GET'])
    assert.deepEqual(await methods('key=key_0000000000'), [])
    assert.deepEqual(await methods(`to=${begin}&method=GET`), ['GET'])
    assert.deepEqual(await methods(`from=${begin}`), [])
    assert.deepEqual(await methods(`from=2020-01-01T00:00:00%2B02:00&method=POST`), ['POST'])
    for (const wrong of ['status=6xx', 'method=get', 'from=yesterday', 'to=2030-13-01', 'colour=red', 'code=A']) {
      const { status, body } = await call('GET', `/v2/requests?${wrong}`)
      assert.equal(status, 400, wrong)
      assert.equal(body.errors[0].parameter, wrong.split('=')[0])
    }
    const impossible = await call('GET', '/v2/requests?from=2030-02-31T25:00:00Z')
    assert.equal(impossible.status, 400)
  })

  test('pagination returns every request once while others are recorded, over several days', async () => {
    const { environment_id } = world.test.principal
    const sql = world.owner
    const path = '/v2/requests?limit=7&method=PURGE'
    await sql`
      insert into requests (ordinal, time, id, environment_id, request_id, method, status, duration_ms, address, aborted, sample_rate)
      select at * 2048 + n, to_timestamp(at / 1000.0), 'req_' || lpad(n::text, 20, '0'), ${environment_id}, 'walk', 'PURGE',
        200, 1, '', false, 1
      from (select n, (extract(epoch from now() - make_interval(hours => n % 24)) * 1000)::bigint as at
        from generate_series(1, 50) n) rows`
    for (const sort of ['-created_at', 'created_at']) {
      const seen: any[] = []
      let cursor = ''
      for (let page = 0; page < 20; page++) {
        const { body } = await call('GET', `${path}&sort=${sort}${cursor}`)
        seen.push(...body.data)
        await call('GET', '/v2/regions')
        if (!body.pagination.has_more) break
        cursor = `&cursor=${body.pagination.next_cursor}`
      }
      assert.equal(new Set(seen.map((row) => row.id)).size, 50)
      const times = seen.map((row) => row.created_at)
      assert.deepEqual(times, sort === 'created_at' ? times.toSorted() : times.toSorted().reverse())
      assert.equal(seen.length, 50)
    }
    const { body } = await call('GET', path)
    const changed = await call('GET', `/v2/requests?limit=7&method=GET&cursor=${body.pagination.next_cursor}`)
    assert.equal(changed.body.code, 'invalid_cursor')
  })

  test('does not return requests of other environments or requests without a key', async () => {
    await call('GET', '/v2/regions', undefined, { 'x-request-id': 'secret' })
    const [own] = await list('request_id=secret')
    const other = await world.tenant()
    for (const key of [world.live.key, other.test.key, other.live.key]) {
      const stranger = caller(world.app, key)
      for (const id of ['secret', own.id]) assert.equal((await stranger('GET', `/v2/requests/${id}`)).status, 404)
      assert.deepEqual(await list('request_id=secret', stranger), [])
    }
    const refused = await call('GET', '/v2/regions', undefined, { authorization: '', 'x-request-id': 'keyless' })
    assert.equal(refused.status, 401)
    assert.equal((await call('GET', '/v2/requests/keyless')).status, 404)
    const [row] = await world.owner`select status, environment_id, key_id from requests where request_id = 'keyless'`
    assert.deepEqual({ ...row }, { status: 401, environment_id: null, key_id: null })
    const narrow = await createTestKey(world.deps, world.test.principal, ['instances:read'])
    assert.equal((await caller(world.app, narrow.key)('GET', '/v2/requests')).status, 403)
  })

  test('records a client that disconnects before the response, and a stream that the client ends', async () => {
    await world.app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = world.app.server.address() as { port: number }
    const { body } = await call('POST', '/v2/instances', BODY)
    const leave = async (path: string, id: string) => {
      const socket = connect(port, '127.0.0.1')
      const head = [`GET ${path} HTTP/1.1`, 'Host: x', `Authorization: Bearer ${world.test.key}`, `X-Request-ID: ${id}`]
      socket.write(`${head.join('\r\n')}\r\n\r\n`)
      await systemClock.sleep(200)
      socket.destroy()
      await until('the request is recorded', async () => (await call('GET', `/v2/requests/${id}`)).status === 200)
      return (await call('GET', `/v2/requests/${id}`)).body
    }
    const left = await leave(`/v2/instances/${body.id}?wait_for=terminated&timeout=30`, 'left')
    assert.deepEqual([left.aborted, left.resource], [true, body.id])
    const followed = await leave(`/v2/instances/${body.id}/console_log?follow=true`, 'followed')
    assert.deepEqual([followed.aborted, followed.status], [true, 200])
    assert.ok(followed.duration_ms > 100)
  })
})
