/** The age of keys, and the event before they end. Expiry is in real time of the database, so tests move the stored times. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { createApp } from '../app.ts'
import { caller, createTestApp, createTestKey, createTestTenant, type TestKey } from '../http/testing.ts'
import { reportExpiringKeys } from './expiring.ts'
import { PROJECT_SCOPES } from './store.ts'

const { app, deps, owner } = await createTestApp()
after(() => app.close())

/** A new tenant, so that tests do not see each other's events. */
async function tenant() {
  const { test: made } = await createTestTenant(deps)
  const call = caller(app, made.key)
  return {
    ...made,
    call,
    make: async (fields: object = {}) =>
      (await call('POST', '/v2/api_keys', { name: 'k', scopes: ['keys:read'], ...fields })).body,
    show: async (id: string) => (await call('GET', `/v2/api_keys/${id}`)).body,
    reported: async (): Promise<any[]> =>
      (await call('GET', '/v2/events?type=api_key.*&sort=created_at')).body.data.map((event: any) => event.data.object),
  }
}
const reportedIds = async ({ reported }: { reported: () => Promise<any[]> }) => (await reported()).map(({ id }) => id)
const endIn = (id: string, interval: string) =>
  owner`update api_keys set expires_at = now() + ${interval}::interval where id = ${id}`
const ageTo = (id: string, interval: string) =>
  owner`update api_keys set created_at = now() - ${interval}::interval where id = ${id}`

describe('the age of a key', () => {
  test('is shown in whole days, and a rotation is recommended above 90 days', async () => {
    const { make, show, call } = await tenant()
    const made = await make()
    assert.deepEqual([made.age_days, made.rotation_recommended], [0, false])
    for (const [age, age_days, rotation_recommended] of [
      ['23 hours 59 minutes', 0, false],
      ['24 hours', 1, false],
      ['89 days 23 hours', 89, false],
      ['90 days 1 minute', 90, true],
      ['400 days', 400, true],
    ] as const) {
      await ageTo(made.id, age)
      const shown = await show(made.id)
      assert.deepEqual([shown.age_days, shown.rotation_recommended], [age_days, rotation_recommended], age)
      const { data } = (await call('GET', '/v2/api_keys')).body
      assert.deepEqual(
        data.find(({ id }: { id: string }) => id === made.id),
        shown,
      )
    }
  })

  test('is of the new key after a rotation, and recommends nothing for keys that have ended', async () => {
    const { make, show, call } = await tenant()
    const [rotated, revoked, expired] = [await make(), await make(), await make()]
    for (const { id } of [rotated, revoked, expired]) await ageTo(id, '100 days')
    const { body: successor } = await call('POST', `/v2/api_keys/${rotated.id}/rotate`)
    assert.deepEqual([successor.age_days, successor.rotation_recommended], [0, false])
    assert.equal((await show(rotated.id)).rotation_recommended, true)
    await call('DELETE', `/v2/api_keys/${revoked.id}`)
    await endIn(expired.id, '0 seconds')
    for (const { id } of [revoked, expired]) {
      const { age_days, rotation_recommended } = await show(id)
      assert.deepEqual([age_days, rotation_recommended], [100, false])
    }
  })

  test('recommends a rotation after key_rotation_days, and never with 0', async () => {
    const { make, key } = await tenant()
    const { id } = await make()
    await ageTo(id, '4000 days')
    for (const [key_rotation_days, expected] of [
      [3_650, true],
      [0, false],
    ] as const) {
      const other = await createApp(
        { ...deps, config: { ...deps.config, key_rotation_days } },
        { ready: async () => [] },
      )
      const { body } = await caller(other, key)('GET', `/v2/api_keys/${id}`)
      assert.equal(body.rotation_recommended, expected)
      await other.close()
    }
  })

  test('is ignored in an update, so that the output of GET can be sent back with its ETag', async () => {
    const { make, call } = await tenant()
    const url = `/v2/api_keys/${(await make()).id}`
    const { body, headers } = await call('GET', url)
    const { status, body: after } = await call('PUT', url, body, { 'if-match': headers.etag! })
    assert.deepEqual([status, after], [200, body])
  })
})

describe('api_key.expiring', () => {
  test('is emitted once, seven days before the key expires', async () => {
    const own = await tenant()
    const { id } = await own.make({ expires_at: '2999-01-01T00:00:00Z' })
    await own.make()
    await endIn(id, '7 days 1 minute')
    await reportExpiringKeys(deps)
    assert.deepEqual(await own.reported(), [])
    await endIn(id, '6 days 23 hours 59 minutes')
    await reportExpiringKeys(deps)
    await reportExpiringKeys(deps)
    const shown = await own.show(id)
    assert.deepEqual(await own.reported(), [{ object: 'api_key', ...shown }])
    const { body } = await own.call('GET', '/v2/events?type=api_key.expiring')
    assert.deepEqual([body.data.length, body.data[0].request_id], [1, null])
  })

  test('is emitted once by several processes at the same time', async () => {
    const tenants = await Promise.all([tenant(), tenant(), tenant()])
    const soon = new Date(deps.clock.now().getTime() + 86_400_000).toISOString()
    const ids = await Promise.all(tenants.map(async ({ make }) => (await make({ expires_at: soon })).id))
    const counts = await Promise.all(Array.from({ length: 8 }, () => reportExpiringKeys(deps)))
    assert.deepEqual(
      await Promise.all(tenants.map(reportedIds)),
      ids.map((id) => [id]),
    )
    assert.equal(
      counts.reduce((sum, count) => sum + count),
      ids.length,
    )
  })

  test('is emitted again for another end, and not for another change of the key', async () => {
    const own = await tenant()
    const { id } = await own.make()
    const change = async (fields: object) => {
      assert.equal((await own.call('PUT', `/v2/api_keys/${id}`, fields)).status, 200)
      await reportExpiringKeys(deps)
      return (await own.reported()).map((key) => key.expires_at)
    }
    const inDays = (days: number) =>
      `${new Date(deps.clock.now().getTime() + days * 86_400_000).toISOString().slice(0, 19)}Z`
    const [two, three] = [inDays(2), inDays(3)]
    assert.deepEqual(await change({ expires_at: two }), [two])
    assert.deepEqual(await change({ name: 'renamed', expires_at: two }), [two])
    assert.deepEqual(await change({ expires_at: inDays(30) }), [two])
    assert.deepEqual(await change({ expires_at: three }), [two, three])
    assert.deepEqual(await change({ expires_at: null }), [two, three])
  })

  test('is emitted for the old key of a rotation, with its successor', async () => {
    const own = await tenant()
    const old = await own.make({ expires_at: '2999-01-01T00:00:00Z' })
    const { body: successor } = await own.call('POST', `/v2/api_keys/${old.id}/rotate`, { overlap_seconds: 3_600 })
    await reportExpiringKeys(deps)
    const [event, ...others] = await own.reported()
    assert.deepEqual([event.id, event.replaced_by, others], [old.id, successor.id, []])
    assert.equal(event.expires_at, (await own.show(old.id)).expires_at)
  })

  test('is not emitted for a key that has ended, was revoked or never ends', async () => {
    const own = await tenant()
    const soon = new Date(deps.clock.now().getTime() + 86_400_000).toISOString()
    const [revoked, ended] = [await own.make({ expires_at: soon }), await own.make({ expires_at: soon })]
    await own.call('DELETE', `/v2/api_keys/${revoked.id}`)
    await endIn(ended.id, '0 seconds')
    await reportExpiringKeys(deps)
    assert.deepEqual(await own.reported(), [])
  })

  test('can be read with keys:read only', async () => {
    const own = await tenant()
    const { id } = await own.make()
    await endIn(id, '1 day')
    await reportExpiringKeys(deps)
    const read = async (...scopes: TestKey['principal']['scopes']) => {
      const { key } = await createTestKey(
        deps,
        own.principal,
        PROJECT_SCOPES.filter((each) => scopes.includes(each)),
      )
      return (await caller(app, key)('GET', '/v2/events')).body.data.map((event: any) => event.data.object.id)
    }
    assert.deepEqual(await read('events:read', 'keys:read'), [id])
    assert.deepEqual(await read('events:read', 'instances:read', 'webhooks:read'), [])
  })
})
