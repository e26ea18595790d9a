/** Default quotas of projects: shown, enforced under concurrency, and replaced by the operator. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Call, caller, type TestTenant } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { DEFAULT_QUOTAS, QUOTA_NAMES, type QuotaName, type Quotas } from '../lib/quota.ts'

const GIB = 2 ** 30
let world: World
before(async () => {
  world = await createWorld({ deps: { resolve: async () => ['93.184.215.14'] } })
  // No test waits for a machine, and a live instance would cause the import of its image.
  await world.engine.stop(5_000)
})
after(() => world?.stop())

type Environment = { call: Call; id: string }
async function tenant(): Promise<Record<'live' | 'test', Environment> & { id: string }> {
  const made: TestTenant = await world.tenant()
  const environment = (mode: 'live' | 'test') => {
    return { call: caller(world.app, made[mode].key), id: made[mode].principal.environment_id }
  }
  return { id: made.live.principal.project_id, live: environment('live'), test: environment('test') }
}
type Shown = Record<QuotaName, { limit: number | null; used: number }>
const limits = async (call: Call): Promise<Shown> => {
  const { body } = await call('GET', '/v2/limits')
  return Object.fromEntries(body.quotas.map(({ name, ...rest }: { name: string }) => [name, rest])) as Shown
}
const setQuotas = (id: string, quotas: Partial<Quotas>) =>
  world.call('PATCH', `/v2/projects/${id}`, { quotas: { live: quotas, test: quotas } })

const INSTANCE = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
let subnets = 0
/** A request that adds one of what a quota counts. */
const creates: Record<'subnets' | 'webhooks' | 'api_keys', (call: Call) => ReturnType<Call>> = {
  subnets: (call) => {
    const cidr = `10.${++subnets}.0.0/24`
    return call('POST', '/v2/subnets', { region: 'us-east-1', name: 's', cidr })
  },
  webhooks: (call) => call('POST', '/v2/webhooks', { url: 'https://example.com/', events: ['instance.created'] }),
  api_keys: (call) => call('POST', '/v2/api_keys', { name: 'k', scopes: ['keys:read'] }),
}

describe('default quotas', { timeout: 120_000 }, () => {
  test('apply to both environments of every project except the first', async () => {
    const { live, test: inTest } = await tenant()
    for (const { call } of [live, inTest]) {
      const shown = await limits(call)
      for (const name of QUOTA_NAMES) assert.equal(shown[name].limit, DEFAULT_QUOTAS[name] ?? null, name)
      assert.deepEqual([shown.subnets.used, shown.webhooks.used, shown.api_keys.used], [1, 0, 1])
    }
    for (const call of [world.call, world.callTest]) {
      assert.ok(Object.values(await limits(call)).every(({ limit }) => limit === null))
    }
    assert.equal(DEFAULT_QUOTAS.memory_bytes, 64 * GIB)
  })

  test('apply to projects that are created by the API, and their default subnet and key count', async () => {
    const { body } = await world.call('POST', '/v2/projects', { name: 'p' })
    const shown = await limits(caller(world.app, body.test_key))
    assert.deepEqual([shown.instances.limit, shown.subnets.used, shown.api_keys.used], [20, 1, 1])
  })

  for (const [name, create] of Object.entries(creates) as [keyof typeof creates, (call: Call) => ReturnType<Call>][]) {
    test(`concurrent requests never exceed the quota ${name}`, async () => {
      const { id, live, test: inTest } = await tenant()
      await setQuotas(id, { [name]: 4 })
      for (const { call } of [live, inTest]) {
        // Two requests that create keys with one key wait for each other.
        const keys = [call, await otherKey(call)]
        const before = (await limits(call))[name].used
        const answers = await Promise.all(Array.from({ length: 16 }, (_, i) => create(keys[i % keys.length]!)))
        const { used } = (await limits(call))[name]
        assert.equal(used, 4)
        assert.equal(answers.filter(({ status }) => status === 201).length, used - before)
        for (const { status, body } of answers.filter((answer) => answer.status !== 201)) {
          assert.deepEqual([status, body.code, body.scope, body.resource], [409, 'capacity_exhausted', 'quota', name])
          assert.deepEqual([body.limit, body.used, body.alternatives], [4, 4, []])
        }
      }
    })
  }

  async function otherKey(call: Call): Promise<Call> {
    const scopes = ['keys:write', 'keys:read', 'network:write', 'webhooks:write', 'instances:read']
    const { body } = await call('POST', '/v2/api_keys', { name: 'other', scopes })
    return caller(world.app, body.key)
  }

  test('50 concurrent creates of instances stop at 20', async () => {
    const { test: environment } = await tenant()
    const answers = await Promise.all(
      Array.from({ length: 50 }, () => environment.call('POST', '/v2/instances', INSTANCE)),
    )
    assert.equal(answers.filter(({ status }) => status === 201).length, 20)
    const refused = answers.find(({ status }) => status !== 201)!
    assert.deepEqual([refused.status, refused.body.resource, refused.body.limit], [409, 'instances', 20])
  })

  test('limit memory and disks at the create and at the resize', async () => {
    const { id, test: environment } = await tenant()
    const large = { ...INSTANCE, plan: 'standard-8x' }
    for (let i = 0; i < 2; i++) assert.equal((await environment.call('POST', '/v2/instances', large)).status, 201)
    const disk = await environment.call('POST', '/v2/instances', large)
    assert.deepEqual([disk.status, disk.body.resource, disk.body.limit], [409, 'disk_bytes', 200 * GIB])
    const { body: small } = await environment.call('POST', '/v2/instances', INSTANCE)
    await world.owner`update instances set status = 'stopped', wanted_power = 'stopped' where id = ${small.id}`
    const resized = await environment.call('PATCH', `/v2/instances/${small.id}`, { plan: 'standard-8x' })
    assert.deepEqual([resized.status, resized.body.resource], [409, 'disk_bytes'])
    await setQuotas(id, { disk_bytes: null, memory_bytes: 33 * GIB })
    const memory = await environment.call('PATCH', `/v2/instances/${small.id}`, { plan: 'standard-4x' })
    assert.deepEqual([memory.status, memory.body.resource, memory.body.limit], [409, 'memory_bytes', 33 * GIB])
  })

  test('a deleted webhook, a deleted subnet, and a revoked or expired key no longer count', async () => {
    const { id, test: environment } = await tenant()
    const { call } = environment
    await setQuotas(id, { subnets: 2, webhooks: 1, api_keys: 2 })
    for (const [name, path] of [
      ['subnets', 'subnets'],
      ['webhooks', 'webhooks'],
      ['api_keys', 'api_keys'],
    ] as const) {
      const { body } = await creates[name](call)
      assert.equal((await creates[name](call)).status, 409, name)
      assert.equal((await call('DELETE', `/v2/${path}/${body.id}`)).status, 204)
      assert.equal((await creates[name](call)).status, 201, name)
    }
    await world.owner`update api_keys set expires_at = now() - interval '1 second'
      where environment_id = ${environment.id} and name = 'k' and revoked_at is null`
    assert.equal((await limits(call)).api_keys.used, 1)
    assert.equal((await creates.api_keys(call)).status, 201)
  })

  test('a key can be rotated at the quota, and a key and its successor count once', async () => {
    const { id, test: environment } = await tenant()
    const { call } = environment
    await setQuotas(id, { api_keys: 2 })
    const { body: key } = await creates.api_keys(call)
    const { status, body: successor } = await call('POST', `/v2/api_keys/${key.id}/rotate`, {})
    assert.deepEqual([status, (await limits(call)).api_keys.used], [201, 2])
    await call('DELETE', `/v2/api_keys/${successor.id}`)
    assert.equal((await creates.api_keys(call)).status, 201)
    const again = await call('POST', `/v2/api_keys/${key.id}/rotate`, {})
    assert.deepEqual([again.status, again.body.resource], [409, 'api_keys'])
  })

  test('a quota below the usage removes nothing and refuses only what adds to it', async () => {
    const { id, test: environment } = await tenant()
    const { call } = environment
    const { body: key } = await creates.api_keys(call)
    const { body: instance } = await call('POST', '/v2/instances', INSTANCE)
    await setQuotas(id, { api_keys: 0, instances: 0, subnets: 0 })
    assert.equal((await call('PATCH', `/v2/api_keys/${key.id}`, { name: 'renamed' })).status, 200)
    assert.equal((await call('POST', `/v2/api_keys/${key.id}/rotate`, {})).status, 201)
    assert.equal((await call('PATCH', `/v2/instances/${instance.id}`, { name: 'renamed' })).status, 200)
    for (const name of ['api_keys', 'subnets'] as const) assert.equal((await creates[name](call)).status, 409)
    assert.deepEqual((await limits(call)).subnets, { limit: 0, used: 1, remaining: 0 })
  })

  test('the configuration replaces defaults one by one, also for the first project', async () => {
    const { id, test: environment } = await tenant()
    const { quotas } = world.deps.config
    quotas.test = { instances: 3, vcpus: null }
    try {
      const shown = await limits(environment.call)
      assert.deepEqual([shown.instances.limit, shown.vcpus.limit, shown.webhooks.limit], [3, null, 20])
      const ofOperator = await limits(world.callTest)
      assert.deepEqual([ofOperator.instances.limit, ofOperator.webhooks.limit], [3, null])
      const create = () => environment.call('POST', '/v2/instances', INSTANCE)
      const answers = [await create(), await create(), await create(), await create()]
      assert.deepEqual(
        answers.map(({ status }) => status),
        [201, 201, 201, 409],
      )
      await setQuotas(id, { instances: null })
      assert.equal((await create()).status, 201)
    } finally {
      quotas.test = {}
    }
  })
})
