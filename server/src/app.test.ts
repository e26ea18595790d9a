import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { Type } from 'typebox'
import { createApp } from './app.ts'
import { caller, createTestApp, createTestKey } from './http/testing.ts'
import type { Resource } from './http/types.ts'
import { newKey } from './keys/format.ts'
import { DatabaseUnavailableError } from './lib/errors.ts'
import { systemRandom } from './lib/random.ts'

const { app, deps, owner, call, live } = await createTestApp()
after(() => app.close())
const anonymous = (method: string, url: string, headers: Record<string, string> = {}) =>
  call(method, url, undefined, { authorization: '', ...headers })

/** An app with these routes only, for what no real route does. */
async function appWith(routes: Resource['routes'], log = deps.log) {
  const other = await createApp({ ...deps, log }, { ready: async () => [], resources: [{ schemas: [], routes }] })
  after(() => other.close())
  return { app: other, call: caller(other, live.key) }
}
const schema = { operationId: 'probe', summary: 'Probe', tags: ['Service'], response: { 200: Type.Object({}) } }

describe('authentication', () => {
  test('401, the same for every key that does not work', async () => {
    const revoked = await createTestKey(deps, live.principal, ['ssh_keys:read'])
    await owner`update api_keys set revoked_at = now() where id = ${revoked.principal.key_id}`
    const expired = await createTestKey(deps, live.principal, ['ssh_keys:read'])
    await owner`update api_keys set expires_at = now() where id = ${expired.principal.key_id}`
    const unknown = newKey('live', systemRandom)
    const keys = ['', 'Bearer', 'Bearer x', 'Basic dTpw', 'Bearer cn_live_sk_9f8e7d6c5b4a3210', live.key]
    for (const key of [unknown, revoked.key, expired.key]) keys.push(`Bearer ${key}`)
    const bodies = new Set<string>()
    for (const authorization of keys) {
      const answer = await call('GET', '/v2/ssh_keys', undefined, { authorization, 'x-request-id': 'same' })
      assert.equal(answer.status, 401, authorization)
      assert.equal(answer.headers['www-authenticate'], 'Bearer')
      bodies.add(JSON.stringify({ ...answer.body, instance: '' }))
    }
    assert.equal(bodies.size, 1)
    assert.equal(JSON.parse([...bodies][0]!).code, 'invalid_api_key')
  })

  test('401 comes before the body is read', async () => {
    const answer = await call('POST', '/v2/ssh_keys', '{broken', { authorization: '' })
    assert.equal(answer.status, 401)
  })

  test('403 names the scope that is missing', async () => {
    const narrow = await createTestKey(deps, live.principal, ['ssh_keys:read'])
    const asNarrow = caller(app, narrow.key)
    assert.equal((await asNarrow('GET', '/v2/ssh_keys')).status, 200)
    const refused = await asNarrow('POST', '/v2/ssh_keys', { name: 'x', public_key: 'y' })
    assert.equal(refused.status, 403)
    assert.equal(refused.body.code, 'insufficient_scope')
    assert.equal(refused.body.required_scope, 'ssh_keys:write')
  })

  test('a scope of any takes a key without scopes; none takes everybody', async () => {
    const none = await createTestKey(deps, live.principal, [])
    assert.equal((await caller(app, none.key)('GET', '/v2/plans')).status, 200)
    assert.equal((await anonymous('GET', '/v2/plans')).status, 401)
    for (const url of ['/healthz', '/readyz', '/openapi.json']) assert.equal((await anonymous('GET', url)).status, 200)
  })

  test('400 for a key in the address', async () => {
    const answer = await call('GET', `/v2/ssh_keys?api_key=${live.key}`)
    assert.equal(answer.status, 400)
    assert.equal(answer.body.errors[0].parameter, 'api_key')
    assert.ok(!JSON.stringify(answer.body).includes(live.key))
  })
})

describe('request ids', () => {
  test("a client's own is echoed, on errors too", async () => {
    for (const [method, url] of [
      ['GET', '/v2/plans'],
      ['GET', '/nowhere'],
      ['PATCH', '/healthz'],
      ['GET', '/%'],
    ]) {
      const answer = await call(method!, url!, undefined, { 'x-request-id': 'trace-1.a_B' })
      assert.equal(answer.headers['x-request-id'], 'trace-1.a_B')
      if (answer.status >= 400) assert.equal(answer.body.request_id, 'trace-1.a_B')
    }
  })

  test('one that is not acceptable is replaced', async () => {
    for (const id of ['req_3x9y2z1a0b5c7d8e4f6g', '', 'a b', 'ü', 'x'.repeat(129), 'a,b', '\u001b[31m']) {
      const answer = await anonymous('GET', '/v2/plans', { 'x-request-id': id })
      assert.match(answer.headers['x-request-id']!, /^req_[0-9a-z]{20}$/)
      assert.equal(answer.body.request_id, answer.headers['x-request-id'])
    }
  })

  test('each request is named by an id of its own besides', async () => {
    const instances = new Set<string>()
    for (let i = 0; i < 3; i++) {
      const { body } = await anonymous('GET', '/v2/plans', { 'x-request-id': 'same' })
      assert.match(body.instance, /^urn:cloudnexus:request:req_[0-9a-z]{20}$/)
      instances.add(body.instance)
    }
    assert.equal(instances.size, 3)
  })
})

describe('what cannot be read', () => {
  const post = (payload: string, headers: Record<string, string> = {}) => call('POST', '/v2/ssh_keys', payload, headers)
  const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`

  test('400 malformed_json', async () => {
    const bodies = [
      '{',
      '{"a":1,}',
      'null x',
      '{"__proto__": {}}',
      '{"a": {"constructor": {"prototype": 1}}}',
      deep(33),
      '\ufeff',
    ]
    for (const body of bodies) {
      const answer = await post(body)
      assert.equal(answer.status, 400, body)
      assert.equal(answer.body.code, 'malformed_json')
    }
    assert.match((await post('{"name": "a" "b"}')).body.detail, /at position 13/)
    assert.equal((await post(deep(32))).status, 422)
  })

  test('400 for bytes that are not UTF-8', async () => {
    const answer = await call('POST', '/v2/ssh_keys', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]))
    assert.equal(answer.status, 400)
    assert.match(answer.body.detail, /UTF-8/)
  })

  test('400 or 404 for addresses with NUL or broken escapes', async () => {
    const undecodable = ['/v2/ssh_keys/%ff', '/v2/%zz', '/v2/subnets?region=%ed%a0%80', '/v2/subnets?region=%']
    for (const url of ['/v2/ssh_keys/%00', '/v2/ssh_keys?cursor=%00', ...undecodable]) {
      assert.equal((await call('GET', url)).status, 400, url)
    }
    for (const url of ['/v2/ssh_keys/nonsense', "/v2/ssh_keys/ssh_'or'1'='1", `/v2/ssh_keys/${'x'.repeat(500)}`]) {
      assert.equal((await call('GET', url)).status, 404, url)
    }
  })

  test('404 for an address without a route, 405 with Allow for a method', async () => {
    const missing = await call('GET', '/v2/nothing')
    assert.equal(missing.status, 404)
    assert.match(missing.headers['content-type']!, /^application\/problem\+json/)
    const { status, headers, body } = await call('PATCH', '/v2/ssh_keys/ssh_3x9y2z1a0b')
    assert.equal(status, 405)
    assert.equal(headers.allow, 'DELETE, GET, HEAD, PUT')
    assert.equal(body.code, 'method_not_allowed')
    assert.equal((await call('POST', '/v2/ssh_keys/', {})).status, 404)
  })

  test('413, 414, 415', async () => {
    const large = await post(JSON.stringify({ name: 'x'.repeat(2 ** 20) }))
    assert.equal(large.status, 413)
    assert.equal((await call('GET', `/v2/ssh_keys?cursor=${'x'.repeat(8200)}`)).status, 414)
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', '; ;', 'image/png']) {
      assert.equal((await post('{}', { 'content-type': type })).status, 415, type)
    }
    assert.equal((await post('{}', { 'content-type': 'application/json; charset=utf-8' })).status, 422)
  })

  test('422 for a body that is missing', async () => {
    for (const type of ['application/json', 'text/plain', 'application/json, text/plain', '; ;']) {
      const answer = await call('POST', '/v2/ssh_keys', '', { 'content-type': type, 'content-length': '0' })
      assert.equal(answer.status, 422)
    }
  })
})

describe('answers', () => {
  test('HEAD is GET without a body', async () => {
    const [get, head] = [await call('GET', '/v2/plans/micro-1x'), await call('HEAD', '/v2/plans/micro-1x')]
    assert.equal(head.status, 200)
    assert.equal(head.body, '')
    assert.equal(head.headers.etag, get.headers.etag)
  })

  test('304 for what the client has', async () => {
    const { headers } = await call('GET', '/v2/plans/micro-1x')
    for (const known of [headers.etag!, `W/${headers.etag}`, `"x", ${headers.etag}`, '*']) {
      const again = await call('GET', '/v2/plans/micro-1x', undefined, { 'if-none-match': known })
      assert.deepEqual([again.status, again.body, again.headers.etag], [304, '', headers.etag])
    }
    const other = await call('GET', '/v2/plans/micro-1x', undefined, { 'if-none-match': '"x"' })
    assert.equal(other.status, 200)
  })

  test('a body or its type on GET and DELETE does no harm', async () => {
    const json = { 'content-type': 'application/json' }
    assert.equal((await call('GET', '/v2/plans', undefined, json)).status, 200)
    assert.equal((await call('DELETE', '/v2/ssh_keys/ssh_3x9y2z1a0b', undefined, json)).status, 404)
    assert.equal(
      (await call('DELETE', '/v2/ssh_keys/ssh_3x9y2z1a0b', '', { 'content-type': 'text/plain' })).status,
      404,
    )
  })

  test('503 with reasons while something does not work', async () => {
    const problem = { name: 'engine', problem: 'it has not started' }
    const ready = async () => [{ name: 'database', problem: null }, problem]
    const other = await createApp(deps, { ready, resources: [] })
    after(() => other.close())
    const answer = await caller(other, live.key)('GET', '/readyz')
    assert.equal(answer.status, 503)
    assert.deepEqual(answer.body.reasons, [problem])
    assert.equal(answer.headers['retry-after'], '2')
  })

  test('503 with Retry-After when the database is away, 500 without a word of the cause otherwise', async () => {
    const errors: Record<string, unknown> = {
      away: new DatabaseUnavailableError(new Error('secret')),
      deadlock: Object.assign(new Error('secret'), { code: '40P01' }),
      bug: new Error('secret at /etc/passwd: select * from keys'),
      status: Object.assign(new Error('secret'), { statusCode: 599 }),
    }
    const logged: object[] = []
    const log = { ...deps.log, error: (fields: object) => void logged.push(fields) }
    const { call } = await appWith(
      (app) =>
        app.get(
          '/v2/:what',
          { config: { scope: 'any' }, schema: { ...schema, params: Type.Object({ what: Type.String() }) } },
          async (request) => {
            throw errors[(request.params as { what: string }).what]
          },
        ),
      log,
    )
    for (const what of ['away', 'deadlock']) {
      const answer = await call('GET', `/v2/${what}`)
      assert.deepEqual([answer.status, answer.body.code, answer.headers['retry-after']], [503, 'unavailable', '2'])
    }
    for (const what of ['bug', 'status']) {
      const answer = await call('GET', `/v2/${what}`)
      assert.deepEqual([answer.status, answer.body.code], [500, 'internal_error'])
      assert.doesNotMatch(JSON.stringify(answer.body), /secret|passwd|select/)
      assert.match(JSON.stringify(logged.at(-1)), /secret/)
      assert.match(JSON.stringify(logged.at(-1)), new RegExp(answer.body.request_id))
    }
  })

  test('each request is one line in the log, without the key', async () => {
    const logged: object[] = []
    const log = { ...deps.log, info: (fields: object) => void logged.push(fields) }
    const { call } = await appWith(
      (app) => app.get('/v2/probe', { config: { scope: 'any' }, schema }, async () => ({})),
      log,
    )
    await call('GET', '/v2/probe', undefined, { 'x-request-id': 'mine' })
    const [{ ms, req_id, ...line }] = logged as [{ ms: number; req_id: string }]
    const { key_id } = live.principal
    assert.deepEqual(line, { request_id: 'mine', method: 'GET', route: '/v2/probe', status: 200, key_id })
    assert.ok(ms >= 0 && req_id.startsWith('req_'))
    assert.equal(logged.length, 1)
    assert.ok(!JSON.stringify(logged).includes(live.key))
  })
})

describe('registration', () => {
  test('rejects a route without a declaration, and names what is missing', async () => {
    const { operationId: _, ...unnamed } = schema
    const { response: __, ...silent } = schema
    for (const [config, lacking, schemaOf] of [
      [{}, /config\.scope/, schema],
      [{ scope: 'any' }, /schema\.operationId/, unnamed],
      [{ scope: 'any' }, /schema\.response/, silent],
    ] as const) {
      const routes = (app: Parameters<Resource['routes']>[0]) =>
        void app.get('/v2/probe', { config, schema: schemaOf }, async () => ({}))
      await assert.rejects(appWith(routes), lacking)
    }
  })
})
