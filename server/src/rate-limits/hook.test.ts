/** Rate limits over HTTP, with two processes on one database. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { Type } from 'typebox'
import { createApp } from '../app.ts'
import { defaultSettings } from '../config.ts'
import type { Deps } from '../deps.ts'
import { type Call, caller, createTestApp, createTestKey, createTestTenant, testConfig } from '../http/testing.ts'
import type { App, Resource } from '../http/types.ts'
import { newKey } from '../keys/format.ts'
import { systemRandom } from '../lib/random.ts'
import type { RateLimits } from './policies.ts'

const { app: first, deps, owner } = await createTestApp()
const closing: App[] = [first]
after(() => Promise.all(closing.map((app) => app.close())))

/** A rate so low that no token is refilled during a test. */
const slow = (burst: number) => ({ rate_per_second: 0.01, burst })
const SMALL: RateLimits = { ...defaultSettings().rate_limits, reads: slow(30), writes: slow(20), creates: slow(4) }

const schema = { summary: 'Probe', tags: ['Service'], response: { 200: Type.Object({}) } }
const probes: Resource = {
  schemas: [],
  routes(app) {
    const route = (method: 'GET' | 'POST', url: string, operationId: string, config: object, handler = () => {}) =>
      app.route({
        method,
        url,
        config: { scope: 'any', ...config },
        schema: { ...schema, operationId },
        handler: async (request) => {
          if (method === 'POST' && request.headers['x-replay']) request.rate_limits.refund('creates')
          handler()
          return {}
        },
      })
    route('GET', '/read', 'read', {})
    route('POST', '/write', 'write', {})
    route('POST', '/create', 'create', { limits: ['creates', 'writes'] })
    route('GET', '/narrow', 'narrow', { scope: 'keys:write' })
    route('GET', '/public', 'getPublic', { scope: 'none' })
    app.get('/limits', { config: { scope: 'any' }, schema: { hide: true } }, (request) => request.rate_limits.list())
  },
}

async function process(rate_limits: RateLimits = SMALL, overrides: Partial<Deps> = {}): Promise<App> {
  const config = { ...testConfig, rate_limits }
  const app = await createApp({ ...deps, ...overrides, config }, { ready: async () => [], resources: [probes] })
  closing.push(app)
  return app
}

async function count(call: Call, method: string, url: string, times: number) {
  const answers = await Promise.all(Array.from({ length: times }, () => call(method, url)))
  return {
    passed: answers.filter(({ status }) => status === 200).length,
    refused: answers.find(({ status }) => status === 429),
  }
}

describe('a key', () => {
  let one: App
  let two: App
  before(async () => {
    one = await process()
    two = await process()
  })
  const keyOf = async (mode: 'live' | 'test' = 'live') => (await createTestTenant(deps))[mode].key

  test('has one burst over all processes, then returns 429', async () => {
    const key = await keyOf()
    const calls = [caller(one, key), caller(two, key)]
    const counts = await Promise.all(calls.map((call) => count(call, 'GET', '/read', 40)))
    const passed = counts.reduce((sum, each) => sum + each.passed, 0)
    assert.ok(passed <= 30 && passed >= 26, `${passed}`)
    const { body, headers } = (await count(calls[0]!, 'GET', '/read', 5)).refused!
    assert.equal(body.code, 'rate_limited')
    assert.equal(body.type, 'https://iana.org/assignments/http-problem-types#quota-exceeded')
    assert.deepEqual(body['violated-policies'], ['reads'])
    assert.ok(Number(headers['retry-after']) >= 90 && Number(headers['retry-after']) <= 100)
    assert.equal(headers['x-ratelimit-remaining'], '0')
    assert.match(headers.ratelimit!, /^"reads";r=0;t=\d+, "project_reads";r=\d+;t=\d+$/)
  })

  test('returns decreasing remaining requests with every response', async () => {
    const call = caller(one, await keyOf())
    for (const [i, [method, url, status]] of (
      [
        ['GET', '/read', 200],
        ['GET', '/read?x=1', 400],
        ['GET', '/read', 200],
        ['HEAD', '/read', 200],
      ] as const
    ).entries()) {
      const { headers, ...answer } = await call(method, url)
      assert.equal(answer.status, status)
      assert.equal(headers['ratelimit-policy'], '"reads";q=30;w=3000, "project_reads";q=150;w=3000')
      assert.match(headers.ratelimit!, new RegExp(`^"reads";r=${29 - i};t=\\d+, "project_reads";r=${149 - i};t=\\d+$`))
      assert.deepEqual([headers['x-ratelimit-limit'], headers['x-ratelimit-remaining']], ['30', String(29 - i)])
      const reset = Number(headers['x-ratelimit-reset']) - deps.clock.now().getTime() / 1_000
      assert.ok(reset > 0 && reset <= 100 * (i + 1) + 1, `${reset}`)
    }
  })

  test('counts responses with 403', async () => {
    const { live } = await createTestTenant(deps)
    const call = caller(one, (await createTestKey(deps, live.principal, [])).key)
    const answer = await call('GET', '/narrow')
    assert.equal(answer.status, 403)
    assert.equal(answer.headers['x-ratelimit-remaining'], '29')
  })

  test('takes a token of creates and writes for a create; a replay refunds that of creates', async () => {
    const call = caller(one, await keyOf())
    const created = await call('POST', '/create')
    assert.match(
      created.headers.ratelimit!,
      /"creates";r=3;.*"project_creates";r=19;.*"writes";r=19;.*"project_writes";r=99;/,
    )
    const replayed = await call('POST', '/create', undefined, { 'x-replay': '1' })
    assert.match(replayed.headers.ratelimit!, /"creates";r=3;.*"project_creates";r=19;.*"writes";r=18;/)
    const { passed, refused } = await count(call, 'POST', '/create', 10)
    assert.equal(passed, 3)
    assert.deepEqual(refused!.body['violated-policies'], ['creates'])
    assert.equal((await call('POST', '/write')).status, 200)
    assert.equal((await call('GET', '/read')).headers['x-ratelimit-remaining'], '29')
  })

  test('shares five times its limit only with the other keys of its environment', async () => {
    const { live, test } = await createTestTenant(deps)
    const keys = await Promise.all(Array.from({ length: 7 }, () => createTestKey(deps, live.principal, [])))
    let passed = 0
    for (const { key } of keys) passed += (await count(caller(one, key), 'POST', '/create', 4)).passed
    assert.equal(passed, 20)
    const refused = await caller(two, keys.at(-1)!.key)('POST', '/create')
    assert.deepEqual(refused.body['violated-policies'], ['project_creates'])
    assert.equal((await caller(one, await keyOf())('POST', '/create')).status, 200)
    const { headers } = await caller(one, test.key)('POST', '/create')
    assert.match(
      headers['ratelimit-policy']!,
      /^"creates";q=2000;w=10, "project_creates";q=10000;w=10, "writes";q=2000;/,
    )
  })

  test('lists its limits', async () => {
    const call = caller(one, await keyOf())
    await call('POST', '/create')
    const { body } = await call('GET', '/limits')
    assert.deepEqual(
      body.map((each: { name: string; burst: number; remaining: number }) => [each.name, each.burst, each.remaining]),
      [
        ['reads', 30, 29],
        ['writes', 20, 19],
        ['creates', 4, 3],
        ['project_reads', 150, 149],
        ['project_writes', 100, 99],
        ['project_creates', 20, 19],
      ],
    )
  })

  test('returns borrowed tokens when a process shuts down', async () => {
    const { key, principal } = (await createTestTenant(deps)).live
    const ending = await process({ ...SMALL, reads: { rate_per_second: 0.1, burst: 200 } })
    for (let i = 0; i < 30; i++) await caller(ending, key)('GET', '/read')
    await ending.close()
    const [row] = await owner`
      select (tat - extract(epoch from clock_timestamp())) * 0.1 as used from rate_limits
      where bucket = ${`${principal.key_id}:reads`}`
    assert.ok(row!.used > 29 && row!.used <= 30, `${row!.used}`)
  })
})

describe('an IP address', () => {
  const anonymous = { authorization: '' }

  test('returns 429 after too many invalid keys, but accepts every valid key, also one that was never used before', async () => {
    const { live } = await createTestTenant(deps)
    const app = await process()
    const call = caller(app, live.key)
    assert.equal((await call('GET', '/read')).status, 200)
    const statuses: number[] = []
    for (let i = 0; i < 25; i++) {
      const authorization = i % 2 ? '' : `Bearer ${newKey('live', systemRandom)}`
      const { status, headers } = await call('GET', '/read', undefined, { authorization })
      statuses.push(status)
      assert.match(headers['ratelimit-policy']!, /^"failed_authentication";q=20;w=60$/)
      assert.equal(headers['x-ratelimit-remaining'], String(Math.max(0, 19 - i)))
    }
    assert.deepEqual(statuses, [...Array(20).fill(401), ...Array(5).fill(429)])
    const { body, headers } = await call('GET', '/read', undefined, anonymous)
    assert.deepEqual([body.code, body['violated-policies']], ['rate_limited', ['failed_authentication']])
    assert.ok(Number(headers['retry-after']) <= 3)
    assert.equal((await call('GET', '/read')).status, 200)
    const { test: unused } = await createTestTenant(deps)
    assert.equal((await caller(app, unused.key)('GET', '/read')).status, 200)
  })

  test('has a limit on public routes, except for probes', async () => {
    const call = caller(await process({ ...SMALL, unauthenticated: slow(5) }), '')
    const { passed, refused } = await count(call, 'GET', '/public', 8)
    assert.equal(passed, 5)
    assert.deepEqual(refused!.body['violated-policies'], ['unauthenticated'])
    assert.equal((await call('GET', '/nowhere')).status, 429)
    const probe = await call('GET', '/healthz')
    assert.deepEqual([probe.status, probe.headers.ratelimit], [200, undefined])
  })
})

test('disabled: counts no requests', async () => {
  const { live } = await createTestTenant(deps)
  const call = caller(await process({ ...SMALL, enabled: false }), live.key)
  const { passed } = await count(call, 'POST', '/create', 50)
  assert.equal(passed, 50)
  const { headers, body } = await call('GET', '/limits')
  assert.deepEqual([headers.ratelimit, body], [undefined, []])
  assert.equal((await call('GET', '/read', undefined, { authorization: '' })).status, 401)
})
