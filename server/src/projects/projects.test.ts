/** Projects over HTTP, and their isolation from each other. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Call, caller } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { SCOPES } from '../keys/scopes.ts'
import { newId } from '../lib/id.ts'

let world: World
before(async () => {
  world = await createWorld()
  // No test waits for a machine, and a live instance would cause the import of its image.
  await world.engine.stop(5_000)
})
after(() => world?.stop())

type Tenant = { id: string; live: Call; test: Call; keys: string[] }
async function project(name = 'p'): Promise<Tenant> {
  const { status, body } = await world.call('POST', '/v2/projects', { name })
  assert.equal(status, 201, JSON.stringify(body))
  const { id, live_key, test_key } = body
  return { id, live: caller(world.app, live_key), test: caller(world.app, test_key), keys: [live_key, test_key] }
}
const BODY = {
  region: 'us-east-1',
  plan: 'micro-1x',
  image: 'micro-linux',
  network: { subnet_id: 'sub_8f7e6d5c4b', assign_public_ip: true },
}

describe('projects', { timeout: 120_000 }, () => {
  test('returns 201 with the keys, only once', async () => {
    const { status, headers, body } = await world.call('POST', '/v2/projects', { name: 'payments' })
    assert.deepEqual([status, headers['cache-control']], [201, 'no-store'])
    assert.equal(headers.location, `http://localhost:8080/v2/projects/${body.id}`)
    assert.match(body.live_key, /^cn_live_sk_/)
    assert.match(body.test_key, /^cn_test_sk_/)
    const { live_key, test_key, ...shown } = body
    const got = await world.call('GET', `/v2/projects/${body.id}`)
    assert.deepEqual([got.body, got.headers.etag], [shown, headers.etag])
    const { body: list } = await world.call('GET', '/v2/projects?limit=1')
    assert.deepEqual(list.data, [shown])
    for (const wrong of [{}, { name: '' }, { name: 'x'.repeat(64) }, { name: 'a\nb' }, { name: 'x', id: 'y' }]) {
      assert.equal((await world.call('POST', '/v2/projects', wrong)).status, 422)
    }
  })

  test('renames a project with PUT and PATCH and If-Match', async () => {
    const { id } = await project('before')
    const { body, headers } = await world.call('GET', `/v2/projects/${id}`)
    assert.deepEqual((await world.call('PUT', `/v2/projects/${id}`, body)).body, body)
    const renamed = await world.call('PATCH', `/v2/projects/${id}`, { name: 'after' }, { 'if-match': headers.etag! })
    assert.deepEqual([renamed.status, renamed.body.name], [200, 'after'])
    const stale = await world.call('PUT', `/v2/projects/${id}`, { name: 'x' }, { 'if-match': headers.etag! })
    assert.equal(stale.status, 412)
    assert.equal((await world.call('GET', '/v2/projects/proj_0000000000')).status, 404)
  })

  test('a quota of the project is returned, enforced, and can be changed and removed', async () => {
    const { status, body } = await world.call('POST', '/v2/projects', {
      name: 'small',
      quotas: { test: { instances: 1 } },
    })
    assert.deepEqual([status, body.quotas], [201, { live: {}, test: { instances: 1 } }])
    const call = caller(world.app, body.test_key)
    const limit = async () => (await call('GET', '/v2/limits')).body.quotas[0].limit
    assert.equal((await call('POST', '/v2/instances', BODY)).status, 201)
    const beyond = await call('POST', '/v2/instances', BODY)
    assert.deepEqual([beyond.status, beyond.body.scope, beyond.body.limit], [409, 'quota', 1])
    const url = `/v2/projects/${body.id}`
    const larger = await world.call('PATCH', url, { quotas: { test: { instances: 2 } } })
    assert.deepEqual([larger.body.quotas, larger.body.name], [{ live: {}, test: { instances: 2 } }, 'small'])
    assert.deepEqual((await world.call('GET', url)).body, larger.body)
    assert.equal((await call('POST', '/v2/instances', BODY)).status, 201)
    assert.deepEqual([await limit(), (await world.call('PUT', url, { quotas: { test: {} } })).status], [2, 200])
    assert.equal(await limit(), 20)
    for (const quotas of [{ test: { instances: -1 } }, { test: { cars: 1 } }, { system: {} }]) {
      assert.equal((await world.call('PUT', url, { quotas })).status, 422)
    }
  })

  test('its keys have all scopes except admin, and cannot grant admin', async () => {
    const { live, test: inTest } = await project()
    for (const call of [live, inTest]) {
      const own = (await call('GET', '/v2/api_keys')).body.data
      assert.deepEqual([own.length, own[0].scopes], [1, SCOPES.filter((scope) => scope !== 'admin')])
      for (const [method, url] of [
        ['GET', '/v2/projects'],
        ['POST', '/v2/projects'],
        ['GET', `/v2/projects/${newId('proj', world.deps.random)}`],
      ] as const) {
        const answer = await call(method, url, method === 'POST' ? { name: 'x' } : undefined)
        assert.equal(answer.body.required_scope, 'admin')
      }
      const granted = await call('POST', '/v2/api_keys', { name: 'x', scopes: ['admin'] })
      assert.deepEqual([granted.status, granted.body.missing_scopes], [403, ['admin']])
    }
  })

  test('the documented request works in both environments of a new project, without SSH keys of other tenants', async () => {
    await world.call('POST', '/v2/ssh_keys', {
      name: 'operator',
      public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f',
      default: true,
    })
    const { live, test: inTest } = await project()
    for (const call of [live, inTest]) {
      const { status, body } = await call('POST', '/v2/instances', BODY)
      assert.equal(status, 201, JSON.stringify(body))
      assert.ok(body.public_ip)
      assert.equal((await call('GET', '/v2/ssh_keys')).body.data.length, 0)
      const [row] = await world.owner`select ssh_public_keys from instances where id = ${body.id}`
      assert.deepEqual(row!.ssh_public_keys, [])
    }
  })

  test('projects have the same private range in separate segments of the host', async () => {
    const [a, b] = [await project(), await project()]
    for (const { live, test: inTest } of [a, b]) {
      for (const call of [live, inTest]) {
        const [subnet] = (await call('GET', '/v2/subnets')).body.data
        assert.deepEqual([subnet.id, subnet.is_default], ['sub_8f7e6d5c4b', true])
      }
      assert.equal((await live('GET', '/v2/subnets')).body.data[0].cidr, '10.77.0.0/16')
    }
    const segments = await world.owner<{ segment: number | null; mode: string }[]>`
      select s.segment, e.mode from subnets s join environments e on e.id = s.environment_id`
    const live = segments.filter(({ mode }) => mode === 'live').map(({ segment }) => segment)
    assert.ok(live.every((segment) => segment !== null))
    assert.equal(new Set(live).size, live.length)
  })

  test('no resource can be read, changed or used from another project or environment', async () => {
    const a = await project('a')
    const b = await project('b')
    const instance = (await a.test('POST', '/v2/instances', BODY)).body
    const subnet = (await a.test('POST', '/v2/subnets', { region: 'us-east-1', name: 's', cidr: '10.1.0.0/24' })).body
    const key = (await a.test('POST', '/v2/api_keys', { name: 'k', scopes: ['keys:read'] })).body
    const sshKey = (
      await a.test('POST', '/v2/ssh_keys', {
        name: 'a',
        public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f',
      })
    ).body
    for (const call of [b.test, b.live, a.live, world.call, world.callTest]) {
      for (const [url, update] of [
        [`/v2/instances/${instance.id}`, {}],
        [`/v2/subnets/${subnet.id}`, null],
        [`/v2/api_keys/${key.id}`, {}],
        [`/v2/ssh_keys/${sshKey.id}`, {}],
      ] as const) {
        assert.equal((await call('GET', url)).status, 404, url)
        assert.equal((await call('DELETE', url)).status, 404, url)
        if (update) assert.equal((await call('PUT', url, update)).status, 404, url)
      }
      assert.ok(!JSON.stringify((await call('GET', '/v2/instances?limit=100')).body).includes(instance.id))
      const network = { subnet_id: subnet.id }
      const foreign = await call('POST', '/v2/instances', { ...BODY, network, ssh_keys: [sshKey.id] })
      const pointers = foreign.body.errors.map((error: { pointer: string }) => error.pointer)
      assert.deepEqual([foreign.status, pointers], [422, ['/network/subnet_id', '/ssh_keys/0']])
    }
    assert.equal((await a.test('GET', `/v2/instances/${instance.id}`)).status, 200)
  })

  test('no key of a project is stored', async () => {
    const { keys } = await project()
    for (const table of ['projects', 'environments', 'api_keys']) {
      const [{ text }] = (await world.owner.unsafe(
        `select string_agg(t::text, ' ') as text from ${table} t`,
      )) as unknown as [{ text: string }]
      for (const key of keys) assert.ok(!text.includes(key.slice(15, 43)), table)
    }
  })
})
