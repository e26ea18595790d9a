/** API keys over HTTP, with two processes on one database where that matters. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { createApp } from '../app.ts'
import { type Call, caller, createTestApp, createTestKey, createTestTenant, type Response } from '../http/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { until } from '../testing/until.ts'
import { isWellFormed } from './format.ts'
import { createKeyLookup } from './lookup.ts'
import { SCOPES, type Scope } from './scopes.ts'

const { app, deps, owner, call, live, test: testKey } = await createTestApp()
const { pepper } = deps.secrets
/** Stands for another process: an app with its own cache of keys. */
const other = await createApp(
  { ...deps, keys: createKeyLookup({ sql: deps.sql, clock: systemClock, pepper }) },
  { ready: async () => [] },
)
after(() => Promise.all([app.close(), other.close()]))

const as = (key: string): Call => caller(app, key)
const elsewhere = (key: string): Call => caller(other, key)
const READ: Scope[] = ['ssh_keys:read']
const MANAGE: Scope[] = ['ssh_keys:read', 'keys:read', 'keys:write']

async function make(fields: object = {}, by: Call = call): Promise<any> {
  const { status, body } = await by('POST', '/v2/api_keys', { name: 'k', scopes: READ, ...fields })
  assert.equal(status, 201, JSON.stringify(body))
  return body
}
const rotate = (id: string, body?: object, by: Call = call) => by('POST', `/v2/api_keys/${id}/rotate`, body)
const show = async (id: string): Promise<any> => (await call('GET', `/v2/api_keys/${id}`)).body
const works = async (key: string, from: (key: string) => Call = as) => {
  const { status } = await from(key)('GET', '/v2/ssh_keys')
  assert.ok(status === 200 || status === 401, String(status))
  return status === 200
}
const within = (ms: number, holds: () => Promise<boolean>) => until('the key is accepted or refused', holds, ms / 1000)
function assertTooStrong({ status, body }: Response, ...pointers: string[]): void {
  assert.deepEqual([status, body.code], [403, 'insufficient_scope'], JSON.stringify(body))
  assert.deepEqual(
    body.errors.map((error: { pointer?: string }) => error.pointer ?? ''),
    pointers,
  )
}

describe('creating a key', () => {
  test('returns 201 with the key and its fields', async () => {
    const { status, headers, body } = await call('POST', '/v2/api_keys', { name: 'ci', scopes: READ })
    assert.equal(status, 201)
    assert.ok(isWellFormed(body.key) && body.key.startsWith('cn_live_sk_'))
    assert.equal(headers['cache-control'], 'no-store')
    assert.equal(headers.location, `http://localhost:8080/v2/api_keys/${body.id}`)
    const { key, ...shown } = body
    const got = await call('GET', `/v2/api_keys/${body.id}`)
    assert.deepEqual(got.body, shown)
    assert.equal(got.headers.etag, headers.etag)
    assert.deepEqual(
      [got.body.status, got.body.environment, got.body.created_by],
      ['active', 'live', live.principal.key_id],
    )
    assert.deepEqual([got.body.expires_at, got.body.allowed_addresses, got.body.budget], [null, null, null])
    assert.ok(await works(key))
    const text = JSON.stringify((await call('GET', '/v2/api_keys')).body)
    assert.ok(text.includes(body.id) && !text.includes(key))
  })

  test('creates the key in the environment of the caller, invisible to others', async () => {
    const inTest = await make({}, as(testKey.key))
    assert.match(inTest.key, /^cn_test_sk_/)
    assert.equal(inTest.environment, 'test')
    const stranger = await createTestTenant(deps)
    for (const by of [call, as(stranger.live.key)]) {
      assert.equal((await by('GET', `/v2/api_keys/${inTest.id}`)).status, 404)
      assert.equal((await by('DELETE', `/v2/api_keys/${inTest.id}`)).status, 404)
      assert.equal((await by('PUT', `/v2/api_keys/${inTest.id}`, { name: 'x' })).status, 404)
      assert.equal((await rotate(inTest.id, {}, by)).status, 404)
      const { body } = await by('GET', '/v2/api_keys?limit=100&status=active,expired,revoked')
      assert.ok(body.data.every((row: { id: string }) => row.id !== inTest.id))
    }
  })

  test('returns 422 with all errors', async () => {
    const body = { name: '', scopes: ['everything'], budget: {}, allowed_addresses: [], more: 1 }
    const { status, body: problem } = await call('POST', '/v2/api_keys', body)
    assert.equal(status, 422)
    const pointers = problem.errors.map((error: { pointer: string }) => error.pointer).sort()
    assert.deepEqual(pointers, ['/allowed_addresses', '/budget', '/more', '/name', '/scopes/0'])
    const past = { expires_at: '2020-01-01T00:00:00Z', allowed_addresses: ['10.1.2.3/8', '1.2.3.4', 'x'] }
    const second = await call('POST', '/v2/api_keys', { name: 'k', scopes: READ, ...past })
    assert.deepEqual(
      second.body.errors.map(({ pointer, code }: any) => `${pointer} ${code}`),
      ['/expires_at in_the_past', '/allowed_addresses/0 invalid', '/allowed_addresses/2 invalid'],
    )
    for (const expires_at of ['2030-02-30', '2030-13-01T00:00:00Z', 'tomorrow', 5]) {
      const answer = await call('POST', '/v2/api_keys', { name: 'k', scopes: READ, expires_at })
      assert.equal(answer.status, 422, String(expires_at))
    }
  })

  test('lists the newest first, in pages, and inactive keys only on request', async () => {
    const tenant = await createTestTenant(deps)
    const by = as(tenant.live.key)
    const made = [await make({}, by), await make({}, by), await make({}, by)]
    await by('DELETE', `/v2/api_keys/${made[1].id}`)
    await owner`update api_keys set expires_at = now() where id = ${made[2].id}`
    const ids = async (query: string) => {
      const { body } = await by('GET', `/v2/api_keys${query}`)
      return body.data.map((row: { id: string }) => row.id)
    }
    assert.deepEqual(await ids(''), [made[0].id, tenant.live.principal.key_id])
    assert.deepEqual(await ids('?status=revoked'), [made[1].id])
    assert.deepEqual(await ids('?status=expired,revoked'), [made[2].id, made[1].id])
    const first = await by('GET', '/v2/api_keys?status=active,expired,revoked&limit=3')
    const next = first.body.pagination.next_cursor
    assert.deepEqual(await ids(`?status=active,expired,revoked&limit=3&cursor=${next}`), [tenant.live.principal.key_id])
    assert.equal((await by('GET', '/v2/api_keys?status=gone')).status, 400)
  })
})

describe('scopes', () => {
  test('keys:read only lists and keys:write only changes', async () => {
    const reader = as((await createTestKey(deps, live.principal, ['keys:read'])).key)
    const writer = as((await createTestKey(deps, live.principal, ['keys:write'])).key)
    assert.equal((await reader('GET', '/v2/api_keys')).status, 200)
    const body = { name: 'k', scopes: ['keys:write'] }
    assert.equal((await reader('POST', '/v2/api_keys', body)).body.required_scope, 'keys:write')
    assert.equal((await writer('GET', '/v2/api_keys')).body.required_scope, 'keys:read')
    assert.equal((await writer('POST', '/v2/api_keys', body)).status, 201)
  })

  test('returns 403 with each field that exceeds the privileges of the caller', async () => {
    const expires_at = '2999-01-01T00:00:00Z'
    const weak = await make({
      scopes: MANAGE,
      expires_at,
      allowed_addresses: ['127.0.0.0/8'],
      budget: { max_vcpus: 4 },
    })
    const by = as(weak.key)
    const wish = (fields: object) => by('POST', '/v2/api_keys', { name: 'k', scopes: READ, ...fields })
    assertTooStrong(await wish({ scopes: ['keys:read', 'instances:read', 'admin'] }), '/scopes/1', '/scopes/2')
    assert.deepEqual((await wish({ scopes: ['admin'] })).body.missing_scopes, ['admin'])
    assertTooStrong(await wish({ expires_at: '2999-01-01T00:00:01Z' }), '/expires_at')
    assertTooStrong(await wish({ expires_at: null }), '/expires_at')
    assertTooStrong(await wish({ allowed_addresses: ['127.0.0.1', '0.0.0.0/0'] }), '/allowed_addresses/1')
    assertTooStrong(await wish({ allowed_addresses: null }), '/allowed_addresses')
    assertTooStrong(await wish({ budget: { max_vcpus: 5 } }), '/budget/max_vcpus')
    const child = await make({}, by)
    assert.deepEqual([child.expires_at, child.allowed_addresses], [expires_at, ['127.0.0.0/8']], 'what was left out')
    assert.equal(child.budget.max_vcpus, 4)
    const inner = await make({ budget: { max_instances: 1 } }, by)
    assert.deepEqual([inner.budget.max_vcpus, inner.budget.max_instances], [4, 1])
  })

  test('a key can rotate, change and revoke itself and its equals, but no key that exceeds it', async () => {
    const by = as((await make({ scopes: MANAGE })).key)
    const strong = await make({ scopes: [...MANAGE, 'images:read'] })
    const refused = await by('DELETE', `/v2/api_keys/${strong.id}`)
    assertTooStrong(refused, '')
    assert.deepEqual(refused.body.missing_scopes, ['images:read'])
    assertTooStrong(await rotate(strong.id, {}, by), '')
    assertTooStrong(await by('PUT', `/v2/api_keys/${strong.id}`, { name: 'x' }), '')
    assert.ok(await works(strong.key))
    const equal = await make({ scopes: MANAGE })
    assert.equal((await by('DELETE', `/v2/api_keys/${equal.id}`)).status, 204)
    const self = await make({ scopes: MANAGE, expires_at: '2999-01-01T00:00:00Z' })
    const successor = await rotate(self.id, { overlap_seconds: 60 }, as(self.key))
    assert.equal(successor.status, 201)
    assert.equal((await as(self.key)('DELETE', `/v2/api_keys/${self.id}`)).status, 204)
    assert.ok(!(await works(self.key)))
  })

  test('a key with a budget cannot change a key outside that budget', async () => {
    const bounded = as((await make({ scopes: MANAGE, budget: { max_instances: 1 } })).key)
    const free = await make()
    const beside = await make({ budget: { max_instances: 1 } })
    assertTooStrong(await rotate(free.id, {}, bounded), '')
    assertTooStrong(await rotate(beside.id, {}, bounded), '')
    const inside = await make({ budget: { max_instances: 1 } }, bounded)
    assert.equal((await rotate(inside.id, {}, bounded)).status, 201)
  })

  test('limits the nesting of budgets', async () => {
    let by = call
    for (let depth = 0; depth < 8; depth++) by = as((await make({ scopes: MANAGE, budget: { max_vcpus: 9 } }, by)).key)
    const answer = await by('POST', '/v2/api_keys', { name: 'k', scopes: READ, budget: { max_vcpus: 1 } })
    assert.deepEqual([answer.status, answer.body.errors[0].code], [422, 'too_deep'])
    await make({}, by)
  })

  test('can grant every scope, each alone', async () => {
    for (const scope of SCOPES) assert.deepEqual((await make({ scopes: [scope] })).scopes, [scope])
  })
})

describe('updating a key', () => {
  test('PUT and PATCH change only the given fields and accept the output of GET', async () => {
    const { id, key } = await make({ scopes: ['ssh_keys:read', 'images:read'], budget: { max_vcpus: 4 } })
    const before = await show(id)
    assert.deepEqual((await call('PUT', `/v2/api_keys/${id}`, before)).body, before)
    const fields = { name: 'new', scopes: ['images:read'], allowed_addresses: ['127.0.0.1/32'] }
    const changed = await call('PATCH', `/v2/api_keys/${id}`, fields)
    assert.deepEqual([changed.body.name, changed.body.scopes], ['new', ['images:read']])
    assert.deepEqual(changed.body.allowed_addresses, ['127.0.0.1'])
    assert.equal((await as(key)('GET', '/v2/ssh_keys')).status, 403, 'at once in this process')
    await within(3_000, async () => (await elsewhere(key)('GET', '/v2/ssh_keys')).status === 403)
    assert.equal((await call('PUT', `/v2/api_keys/${id}`, { budget: null })).body.code, 'immutable_field')
    assert.equal((await call('PUT', `/v2/api_keys/${id}`, { key: 'x' })).body.errors[0].code, 'unknown_field')
  })

  test('rejects privileges beyond those of the caller, also for the caller itself', async () => {
    const self = await make({ scopes: MANAGE, expires_at: '2999-01-01T00:00:00Z' })
    const by = as(self.key)
    const wish = (fields: object) => by('PUT', `/v2/api_keys/${self.id}`, fields)
    assertTooStrong(await wish({ scopes: [...MANAGE, 'admin'] }), '/scopes/3')
    assertTooStrong(await wish({ expires_at: null }), '/expires_at')
    assert.equal((await wish({ expires_at: '2998-01-01T00:00:00Z', name: 'sooner' })).status, 200)
    assertTooStrong(await wish({ expires_at: '2999-01-01T00:00:00Z' }), '/expires_at')
  })

  test('returns 412 if If-Match does not match and 304 if If-None-Match does', async () => {
    const { id } = await make()
    const { headers } = await call('GET', `/v2/api_keys/${id}`)
    const etag = headers.etag!
    assert.equal((await call('GET', `/v2/api_keys/${id}`, undefined, { 'if-none-match': etag })).status, 304)
    assert.equal((await call('PUT', `/v2/api_keys/${id}`, { name: 'a' }, { 'if-match': etag })).status, 200)
    for (const [method, url] of [
      ['PUT', `/v2/api_keys/${id}`],
      ['DELETE', `/v2/api_keys/${id}`],
      ['POST', `/v2/api_keys/${id}/rotate`],
    ] as const) {
      const body = method === 'DELETE' ? undefined : {}
      assert.equal((await call(method, url, body, { 'if-match': etag })).status, 412, method)
    }
  })
})

describe('rotation', () => {
  test('returns 201 with a new key of the same privileges; the old key expires after the overlap', async () => {
    const old = await make({
      expires_at: '2999-01-01T00:00:00Z',
      allowed_addresses: ['127.0.0.1'],
      budget: { max_vcpus: 2 },
    })
    const { status, body } = await rotate(old.id, { overlap_seconds: 2 })
    assert.equal(status, 201)
    assert.deepEqual([body.replaces, body.status, body.expires_at], [old.id, 'active', old.expires_at])
    assert.deepEqual([body.name, body.scopes, body.allowed_addresses], [old.name, old.scopes, old.allowed_addresses])
    assert.deepEqual(body.budget, old.budget)
    assert.notEqual(body.id, old.id)
    const before = await show(old.id)
    assert.equal(before.replaced_by, body.id)
    assert.ok(before.expires_at < old.expires_at)
    assert.ok((await works(old.key)) && (await works(body.key)))
    assert.ok(await works(old.key, elsewhere))
    await within(4_000, async () => !(await works(old.key)) && !(await works(old.key, elsewhere)))
    assert.ok(await works(body.key))
    assert.equal((await show(old.id)).status, 'expired')
  })

  test('the overlap is 24 hours by default, at most 7 days, and never extends the expiry', async () => {
    const hours = (row: { expires_at: string }) => (Date.parse(row.expires_at) - Date.now()) / 3_600_000
    const { id } = await make()
    assert.equal((await rotate(id)).status, 201)
    assert.ok(Math.abs(hours(await show(id)) - 24) < 0.1)
    const soon = await make({ expires_at: new Date(Date.now() + 3_600_000).toISOString() })
    await rotate(soon.id)
    assert.equal((await show(soon.id)).expires_at, soon.expires_at)
    for (const overlap_seconds of [-1, 604_801, 1.5, '60']) {
      assert.equal((await rotate(id, { overlap_seconds })).status, 422, String(overlap_seconds))
    }
  })

  test('expires the old key immediately without an overlap', async () => {
    const { id, key } = await make()
    assert.ok(await works(key))
    const { body } = await rotate(id, { overlap_seconds: 0 })
    assert.deepEqual([await works(key), await works(body.key)], [false, true])
  })

  test('returns 409 for a key that has a successor, an active predecessor, or is not active', async () => {
    const a = await make()
    const b = (await rotate(a.id)).body
    const twice = await rotate(a.id)
    assert.deepEqual([twice.status, twice.body.code, twice.body.replaced_by], [409, 'conflict', b.id])
    const third = await rotate(b.id)
    assert.deepEqual([third.status, third.body.predecessor], [409, a.id])
    await call('DELETE', `/v2/api_keys/${a.id}`)
    assert.equal((await rotate(b.id)).status, 201)
    const ended = await rotate(a.id)
    assert.deepEqual([ended.status, ended.body.code, ended.body.current_status], [409, 'invalid_state', 'revoked'])
  })

  test('allows a second rotation, with the first expiry, after the successor is revoked', async () => {
    const { id } = await make()
    const lost = (await rotate(id, { overlap_seconds: 3600 })).body
    const until = (await show(id)).expires_at
    await call('DELETE', `/v2/api_keys/${lost.id}`)
    const { status, body } = await rotate(id)
    assert.deepEqual([status, body.expires_at], [201, null])
    assert.equal((await show(id)).expires_at, until, 'a rotation never prolongs')
  })

  test('creates one successor for concurrent rotations', async () => {
    const { id } = await make()
    const answers = await Promise.all(Array.from({ length: 10 }, () => rotate(id)))
    assert.deepEqual(answers.map(({ status }) => status).sort(), [201, ...Array(9).fill(409)])
  })
})

describe('revocation and expiry', () => {
  test('revocation takes effect immediately in this process, within a second in others, and is idempotent', async () => {
    const { id, key } = await make()
    assert.ok((await works(key)) && (await works(key, elsewhere)))
    assert.equal((await call('DELETE', `/v2/api_keys/${id}`)).status, 204)
    assert.equal(await works(key), false)
    await within(3_000, async () => !(await works(key, elsewhere)))
    const { revoked_at } = await show(id)
    assert.equal((await call('DELETE', `/v2/api_keys/${id}`)).status, 204)
    const after = await show(id)
    assert.deepEqual([after.status, after.revoked_at], ['revoked', revoked_at])
    assert.equal((await call('PUT', `/v2/api_keys/${id}`, { name: 'x' })).body.code, 'invalid_state')
  })

  test('a revoked key that is still cached creates no key', async () => {
    const { id, key } = await make({ scopes: MANAGE })
    assert.ok(await works(key, elsewhere))
    await call('DELETE', `/v2/api_keys/${id}`)
    const before = (await call('GET', '/v2/api_keys?limit=1')).body.data[0].id
    const { status } = await elsewhere(key)('POST', '/v2/api_keys', { name: 'k', scopes: READ })
    assert.equal(status, 401)
    assert.equal((await call('GET', '/v2/api_keys?limit=1')).body.data[0].id, before)
  })

  test('an expired key is invalid and is not cached beyond its expiry', async () => {
    const { id, key } = await make({ expires_at: new Date(Date.now() + 1_500).toISOString() })
    assert.ok((await works(key)) && (await works(key, elsewhere)))
    await within(4_000, async () => !(await works(key)))
    assert.equal(await works(key, elsewhere), false)
    assert.equal((await show(id)).status, 'expired')
  })

  test('returns the same 401 for unknown, revoked and expired keys', async () => {
    const revoked = await make()
    await call('DELETE', `/v2/api_keys/${revoked.id}`)
    const rotated = await make()
    await rotate(rotated.id, { overlap_seconds: 0 })
    const bodies = new Set<string>()
    for (const key of [revoked.key, rotated.key, 'cn_live_sk_9f8e7d6c5b4a3210']) {
      const { status, body } = await as(key)('GET', '/v2/ssh_keys', undefined, { 'x-request-id': 'same' })
      assert.equal(status, 401)
      bodies.add(JSON.stringify({ ...body, instance: '' }))
    }
    assert.equal(bodies.size, 1)
  })
})

describe('allowed IP addresses', () => {
  const from = async (key: string, remoteAddress: string, headers: object = {}, to = app) => {
    const authorization = `Bearer ${key}`
    const answer = await to.inject({ url: '/v2/ssh_keys', remoteAddress, headers: { authorization, ...headers } })
    return answer.statusCode
  }

  test('returns 403 from other IP addresses without the allowed ones', async () => {
    const { key } = await make({ allowed_addresses: ['203.0.113.0/24', '2001:db8::/32'] })
    for (const address of ['203.0.113.9', '::ffff:203.0.113.9', '2001:db8::5']) {
      assert.equal(await from(key, address), 200, address)
    }
    for (const address of ['203.0.114.1', '::ffff:203.0.114.1', '2001:db9::1']) {
      assert.equal(await from(key, address), 403, address)
    }
    const { status, body } = await as(key)('GET', '/v2/ssh_keys')
    assert.deepEqual([status, body.code], [403, 'address_not_allowed'])
    assert.ok(!/203|2001/.test(body.detail))
  })

  test('reads X-Forwarded-For only from trusted proxies', async () => {
    const { key } = await make({ allowed_addresses: ['203.0.113.7'] })
    const forwarded = { 'x-forwarded-for': '203.0.113.7' }
    assert.equal(await from(key, '127.0.0.1', forwarded), 403)
    const config = { ...deps.config, trusted_proxies: ['127.0.0.0/8', 'fd00::/8'] }
    const behind = await createApp({ ...deps, config }, { ready: async () => [] })
    after(() => behind.close())
    assert.equal(await from(key, '127.0.0.1', forwarded, behind), 200)
    assert.equal(await from(key, '127.0.0.1', { 'x-forwarded-for': '203.0.113.7, 127.9.9.9' }, behind), 200)
    // A value that the client itself prepends is ignored, and so is a sender that is not a trusted proxy.
    assert.equal(await from(key, '127.0.0.1', { 'x-forwarded-for': '203.0.113.7, 198.51.100.1' }, behind), 403)
    assert.equal(await from(key, '198.51.100.1', forwarded, behind), 403)
    for (const written of ['203.0.113.7:80', '::ffff:203.0.113.7', '"[::ffff:203.0.113.7]:443"'])
      assert.equal(await from(key, '127.0.0.1', { 'x-forwarded-for': written }, behind), 200, written)
    for (const nonsense of ['unknown', '', '203.0.113.7:', "';--", '::1%lo']) {
      assert.equal(await from(key, '127.0.0.1', { 'x-forwarded-for': nonsense }, behind), 403, nonsense)
      assert.equal(await from(live.key, '127.0.0.1', { 'x-forwarded-for': nonsense }, behind), 200, nonsense)
    }
  })

  test('records time and IP address of the last use, asynchronously and once a minute', async () => {
    const { id, key } = await make()
    assert.equal((await show(id)).last_used_at, null)
    assert.equal(await from(key, '::ffff:198.51.100.7'), 200)
    await within(5_000, async () => (await show(id)).last_used_at !== null)
    assert.equal((await show(id)).last_used_address, '198.51.100.7')
    const [stamp] = await owner`select xmin from api_keys where id = ${id}`
    for (let i = 0; i < 5; i++) await from(key, '198.51.100.8')
    await from(key, '198.51.100.8', {}, other)
    // Keys that are noted later than it would have been, in each process.
    const [here, there] = [await make(), await make()]
    assert.equal(await from(here.key, '198.51.100.9'), 200)
    assert.equal(await from(there.key, '198.51.100.9', {}, other), 200)
    for (const late of [here, there]) await within(5_000, async () => (await show(late.id)).last_used_at !== null)
    assert.deepEqual((await owner`select xmin from api_keys where id = ${id}`)[0], stamp)
  })
})

test('the database contains no key', async () => {
  const { key } = await make()
  const successor = (await rotate((await make()).id)).body
  const tables = await owner<{ name: string }[]>`
    select table_name as name from information_schema.tables where table_schema = 'public'`
  for (const { name } of tables) {
    const [{ text }] = (await owner.unsafe(
      `select coalesce(string_agg(t::text, ' '), '') as text from "${name}" t`,
    )) as any
    for (const secret of [key, successor.key, live.key]) assert.ok(!text.includes(secret.slice(15, 43)), name)
  }
})
