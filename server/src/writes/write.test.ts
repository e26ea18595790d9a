/** Idempotency-Key and the audit log of writes. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, describe, test } from 'node:test'
import { CANARY } from '../db/testing-canary.ts'
import { purgeResponses } from '../http/idempotency.ts'
import { caller } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { canonicalJson } from '../lib/canonical-json.ts'

const world = await createWorld()
after(() => world.stop())
const { callTest: call, deps, owner } = world

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const create = (key: string, body: object = BODY, headers = {}) =>
  call('POST', '/v2/instances', body, { 'idempotency-key': key, ...headers })
const count = async () => (await call('GET', '/v2/instances?limit=100')).body.data.length

describe('Idempotency-Key', () => {
  test('a repeated request gets the same response and creates nothing', async () => {
    const first = await create('once')
    const before = await count()
    const again = await create('"once"')
    assert.deepEqual([first.status, again.status], [201, 201])
    assert.deepEqual(again.body, first.body)
    assert.equal(again.headers.location, first.headers.location)
    assert.equal(again.headers.etag, first.headers.etag)
    assert.deepEqual([first.headers['idempotent-replayed'], again.headers['idempotent-replayed']], [undefined, 'true'])
    assert.equal(await count(), before)
  })

  test('returns 422 for a different body, but ignores the order of fields', async () => {
    await create('order')
    const reversed = Object.fromEntries(Object.entries(BODY).reverse())
    assert.equal((await create('order', reversed)).headers['idempotent-replayed'], 'true')
    const other = await create('order', { ...BODY, name: 'other' })
    assert.deepEqual([other.status, other.body.code], [422, 'idempotency_key_reused'])
  })

  test('50 concurrent requests create one instance and one event; the others get 409 or the stored response', async () => {
    const before = await count()
    const responses = await Promise.all(Array.from({ length: 50 }, () => create('race')))
    const made = responses.filter((response) => response.status === 201)
    const ids = new Set(made.map((response) => response.body.id))
    assert.equal(ids.size, 1)
    for (const response of responses.filter((each) => each.status !== 201)) {
      assert.deepEqual([response.status, response.body.code], [409, 'idempotency_in_flight'])
      assert.equal(response.headers['retry-after'], '1')
    }
    assert.equal(made.filter((response) => response.headers['idempotent-replayed'] !== 'true').length, 1)
    assert.equal(await count(), before + 1)
    const [id] = ids
    const events = await owner`select 1 from events where resource_id = ${id} and type = 'instance.created'`
    assert.equal(events.count, 1)
    assert.equal((await create('race')).body.id, id)
  })

  test('an error response is not stored: a later request with the same key succeeds', async () => {
    assert.equal((await create('refused', { ...BODY, plan: 'none' })).status, 422)
    assert.equal((await create('refused')).status, 201)
  })

  test('the same key is independent in another environment or at another URL', async () => {
    const subnet = { region: 'us-east-1', name: 'shared', cidr: '172.20.0.0/24' }
    const first = await call('POST', '/v2/subnets', subnet, { 'idempotency-key': 'shared' })
    const live = await world.call('POST', '/v2/subnets', subnet, { 'idempotency-key': 'shared' })
    assert.deepEqual([first.status, live.status], [201, 201])
    assert.notEqual(live.body.id, first.body.id)
    const elsewhere = await create('shared')
    assert.deepEqual([elsewhere.status, elsewhere.headers['idempotent-replayed']], [201, undefined])
  })

  test('a key can be reused after 24 hours', async () => {
    const first = await create('old')
    await owner`update idempotency_keys set created_at = now() - interval '24 hours 1 second' where key = 'old'`
    const second = await create('old')
    assert.notEqual(second.body.id, first.body.id)
    assert.equal((await create('old')).body.id, second.body.id)
    await owner`update idempotency_keys set created_at = now() - interval '25 hours' where key = 'old'`
    await purgeResponses(deps.sql)
    const left = await owner`select key from idempotency_keys where key in ('old', 'once')`
    assert.deepEqual([...left], [{ key: 'once' }])
  })

  test('returns 400 for an invalid key, and ignores the header on other methods', async () => {
    for (const key of ['', ' ', 'ü', 'x'.repeat(256)]) {
      const { status, body } = await create(key)
      assert.deepEqual([status, body.errors?.[0].parameter], [400, 'Idempotency-Key'], JSON.stringify(key))
    }
    const { body } = await create('named')
    const put = () => call('PUT', `/v2/instances/${body.id}`, { name: 'same' }, { 'idempotency-key': 'named' })
    assert.deepEqual([(await put()).status, (await put()).headers['idempotent-replayed']], [200, undefined])
  })
})

describe('the audit log', () => {
  const all = async (query = '') => {
    const { body } = await call('GET', `/v2/audit_log/export${query}`)
    return (body as string)
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  }

  test('records each write with key, action, and the fields before and after', async () => {
    const made = await call(
      'POST',
      '/v2/instances',
      { ...BODY, user_data: `#!/bin/sh\necho ${CANARY}` },
      { 'x-request-id': 'audited' },
    )
    await call('PUT', `/v2/instances/${made.body.id}`, { tags: { a: 'b' } }, { 'x-request-id': 'changed' })
    const [created] = await all('?request_id=audited')
    assert.deepEqual(
      [created.action, created.resource, created.outcome, created.status, created.before],
      ['createInstance', made.body.id, 'done', 201, null],
    )
    assert.equal(created.key_id, world.test.principal.key_id)
    assert.equal(created.after.id, made.body.id)
    const { body: page } = await call('GET', '/v2/audit_log?request_id=audited')
    assert.deepEqual(page.data, [created], 'the list shows the same as the export')
    const [changed] = await all('?request_id=changed')
    assert.deepEqual([changed.before, changed.after], [{ tags: {} }, { tags: { a: 'b' } }])
  })

  test('records rejected writes with their code, but not reads or replayed requests', async () => {
    const before = (await all()).length
    await call('DELETE', '/v2/instances/inst_0000000000')
    await call('POST', '/v2/instances', { ...BODY, plan: 'none' })
    await call('GET', '/v2/instances/inst_0000000000')
    const refused = (await all('?outcome=refused')).slice(-2)
    assert.equal((await all()).length, before + 2)
    assert.deepEqual(
      refused.map((entry) => [entry.action, entry.status, entry.code, entry.resource]),
      [
        ['terminateInstance', 404, 'not_found', 'inst_0000000000'],
        ['createInstance', 422, 'validation_failed', null],
      ],
    )
    await create('audited-once')
    const made = (await all()).length
    await create('audited-once')
    assert.equal((await all()).length, made)
  })

  test('is a hash chain: each hash follows from the entry and the previous hash', async () => {
    const entries = await all()
    assert.deepEqual(
      entries.map((entry) => entry.sequence),
      entries.map((_, i) => i + 1),
    )
    let previous = Buffer.alloc(32)
    for (const { sequence: _, hash, ...entry } of entries) {
      const digest = createHash('sha256').update(canonicalJson(entry)).digest()
      previous = createHash('sha256').update(previous).update(digest).digest()
      assert.equal(hash, previous.toString('hex'))
    }
  })

  test('is append-only', async () => {
    for (const statement of ['update audit_log set code = null', 'delete from audit_log', 'truncate audit_log']) {
      await assert.rejects(owner.unsafe(statement), /never changed|permission denied/)
    }
  })

  test('is separate for each environment, and paginated', async () => {
    const live = await world.call('GET', '/v2/audit_log?limit=1')
    assert.notEqual(live.body.data[0]?.key_id, world.test.principal.key_id)
    const { body } = await call('GET', '/v2/audit_log?limit=2')
    assert.deepEqual([body.data.length, body.pagination.has_more], [2, true])
    assert.ok(body.data[0].sequence > body.data[1].sequence)
    assert.equal((await call('GET', '/v2/audit_log?from=yesterday')).status, 400)
    const other = caller(world.app, (await world.tenant()).test.key)
    assert.deepEqual((await other('GET', '/v2/audit_log')).body.data, [])
  })
})
