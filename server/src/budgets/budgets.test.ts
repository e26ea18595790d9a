/** Budgets of keys over HTTP, on simulated machines with a frozen clock. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Call, caller, type Response } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { recountBudgets } from './store.ts'

const SCOPES = ['instances:read', 'instances:write', 'keys:read', 'keys:write', 'events:read']
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())

type Key = { id: string; call: Call; used(): Promise<number[]> }
async function key(budget: object | undefined, by: Call = world.callTest): Promise<Key> {
  const { status, body } = await by('POST', '/v2/api_keys', { name: 'ci', scopes: SCOPES, ...(budget && { budget }) })
  assert.equal(status, 201, JSON.stringify(body))
  const used = async () => {
    const { budget } = (await world.callTest('GET', `/v2/api_keys/${body.id}`)).body
    return [budget.used_instances, budget.used_vcpus]
  }
  return { id: body.id, call: caller(world.app, body.key), used }
}
const launch = (by: Call, fields: object = {}) => by('POST', '/v2/instances', { ...BODY, ...fields })
async function create(by: Call, fields: object = {}): Promise<any> {
  const { status, body } = await launch(by, fields)
  assert.equal(status, 201, JSON.stringify(body))
  return body
}
/** Advances the clock until the instance has the status. */
async function pass(id: string, status: string): Promise<any> {
  for (let seconds = 0; seconds < 1_000; seconds++) {
    const { body } = await world.callTest('GET', `/v2/instances/${id}`)
    if (body.status === status) return body
    await world.advance(1)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return assert.fail(`${id} does not become ${status}`)
}
async function terminate(id: string): Promise<void> {
  assert.equal((await world.callTest('DELETE', `/v2/instances/${id}`)).status, 202)
  await world.reach(id, 'terminated')
}
/** Asserts that every budget equals the sum over the rows. */
async function assertTrue(): Promise<void> {
  const differing = await world.owner`
    select b.id, b.used_instances, b.used_vcpus, count(i.id), coalesce(sum(i.wanted_vcpus), 0) as vcpus
    from budgets b left join budgets inner_ on b.id = any(inner_.lineage)
      left join instances i on i.budget_id = inner_.id and i.status <> 'terminated'
    group by b.id having b.used_instances <> count(i.id) or b.used_vcpus <> coalesce(sum(i.wanted_vcpus), 0)`
  assert.deepEqual([...differing], [])
}

describe('budgets', { timeout: 240_000 }, () => {
  test('a key with a budget changes only instances that its budget has made', async () => {
    const others = await create(world.callTest)
    const ci = await key({ max_instances: 3 })
    const inner = await key({ max_instances: 1 }, ci.call)
    const [own, nested] = [await create(ci.call), await create(inner.call)]
    const writes = (id: string): [string, string, object?][] => [
      ['PUT', `/v2/instances/${id}`, { tags: { a: '1' } }],
      ['PATCH', `/v2/instances/${id}`, { name: 'renamed' }],
      ['PATCH', `/v2/instances/${id}?allow_reboot=true`, { plan: 'standard-4x' }],
      ...['start', 'stop', 'reboot', 'rebuild'].map((action): [string, string, object?] => [
        'POST',
        `/v2/instances/${id}/actions/${action}`,
      ]),
      ['DELETE', `/v2/instances/${id}`],
    ]
    const codes = async (by: Call, id: string) => {
      const answers: Response[] = []
      for (const [method, url, body] of writes(id)) answers.push(await by(method, url, body))
      return answers.map(({ status, body }) => [status, body?.code])
    }
    for (const [by, id] of [
      [ci.call, others.id],
      [inner.call, others.id],
      [inner.call, own.id],
    ] as const)
      assert.deepEqual(new Set((await codes(by, id)).map(String)), new Set(['403,not_in_budget']))
    for (const [by, id] of [
      [ci.call, own.id],
      [ci.call, nested.id],
      [world.callTest, others.id],
    ] as const)
      assert.ok((await codes(by, id)).every(([, code]) => code !== 'not_in_budget'))
  })

  test('100 concurrent creates with a budget of 10 create exactly 10', async () => {
    const ci = await key({ max_instances: 10 })
    const answers = await Promise.all(Array.from({ length: 100 }, () => launch(ci.call)))
    const made = answers.filter(({ status }) => status === 201)
    assert.equal(made.length, 10)
    for (const { status, body } of answers.filter(({ status }) => status !== 201)) {
      assert.deepEqual([status, body.code, body.scope], [409, 'capacity_exhausted', 'key_budget'])
      assert.deepEqual([body.resource, body.limit, body.used, body.left], ['instances', 10, 10, 0])
      assert.deepEqual([body.retryable, body.alternatives], [true, []])
    }
    assert.deepEqual(await ci.used(), [10, 10])
    await terminate(made[0]!.body.id)
    assert.deepEqual(await ci.used(), [9, 9])
    await create(ci.call)
    assert.equal((await launch(ci.call)).status, 409)
    await assertTrue()
  })

  test('limits vCPUs, returns the plans that fit, and counts a resize in both directions', async () => {
    const ci = await key({ max_vcpus: 5 })
    const { id } = await create(ci.call, { plan: 'standard-4x' })
    const refused = await launch(ci.call, { plan: 'standard-4x' })
    assert.deepEqual(
      [refused.body.resource, refused.body.limit, refused.body.used, refused.body.left],
      ['vcpus', 5, 4, 1],
    )
    assert.deepEqual([refused.body.alternatives, refused.body.retryable], [['micro-1x'], true])
    const never = await launch(ci.call, { plan: 'standard-8x' })
    assert.equal(never.body.retryable, false)
    const small = await create(ci.call)
    await pass(small.id, 'running')
    const resize = () => ci.call('PUT', `/v2/instances/${small.id}?allow_reboot=true`, { plan: 'standard-4x' })
    assert.equal((await resize()).body.scope, 'key_budget')
    assert.deepEqual(await ci.used(), [2, 5])
    await terminate(id)
    assert.deepEqual(await ci.used(), [1, 1])
    assert.equal((await resize()).status, 200)
    assert.deepEqual(await ci.used(), [1, 4])
    // A change counts in the budget of the key that created the instance.
    const other = await world.callTest('PUT', `/v2/instances/${small.id}?allow_reboot=true`, { plan: 'standard-8x' })
    assert.notEqual(other.status, 200)
    await terminate(small.id)
    assert.deepEqual(await ci.used(), [0, 0])
    await assertTrue()
  })

  test('a create that fails for another reason uses no budget', async () => {
    const ci = await key({ max_instances: 1 })
    assert.equal((await launch(ci.call, { image: 'nothing' })).status, 422)
    assert.deepEqual(await ci.used(), [0, 0])
    await create(ci.call)
    await assertTrue()
  })

  test('rotations and child keys share the budget; a nested budget is limited by both', async () => {
    const ci = await key({ max_instances: 2, ttl_seconds: 7200 })
    const rotated = await ci.call('POST', `/v2/api_keys/${ci.id}/rotate`)
    const successor = caller(world.app, rotated.body.key)
    const child = await key(undefined, successor)
    const inner = await key({ max_instances: 1, ttl_seconds: 3600 }, successor)
    const first = await create(inner.call)
    assert.equal((await launch(inner.call)).body.limit, 1)
    assert.equal(Date.parse(first.expires_at) - Date.parse(first.created_at), 3_600_000)
    const second = await create(child.call)
    assert.equal(Date.parse(second.expires_at) - Date.parse(second.created_at), 7_200_000)
    assert.deepEqual([second.created_by, first.created_by], [child.id, inner.id])
    for (const by of [ci.call, successor, child.call]) assert.equal((await launch(by)).body.limit, 2)
    assert.deepEqual(
      [await ci.used(), await child.used(), await inner.used()],
      [
        [2, 2],
        [2, 2],
        [1, 1],
      ],
    )
    await terminate(first.id)
    assert.deepEqual(
      [await ci.used(), await inner.used()],
      [
        [1, 1],
        [0, 0],
      ],
    )
    await assertTrue()
  })

  test('concurrent creates with all keys of a budget neither deadlock nor exceed it', async () => {
    const ci = await key({ max_instances: 12 })
    const inner = await Promise.all([1, 2, 3].map(() => key({ max_instances: 8, max_vcpus: 8 }, ci.call)))
    const keys = [ci, ...inner]
    const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => launch(keys[i % 4]!.call)))
    const made = answers.filter(({ status }) => status === 201).map(({ body }) => body.id)
    assert.deepEqual([made.length, (await ci.used())[0]], [12, 12])
    await Promise.all(made.map((id) => terminate(id)))
    for (const each of keys) assert.deepEqual(await each.used(), [0, 0])
  })

  test('creating instances, keys and successors concurrently with one key does not deadlock', async () => {
    const ci = await key({ max_instances: 1_000 })
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, i) => {
        if (i % 3 === 0) return launch(ci.call)
        if (i % 3 === 1) return ci.call('POST', '/v2/api_keys', { name: 'k', scopes: ['keys:read'] })
        return ci.call('POST', '/v2/api_keys', { name: 'k', scopes: ['keys:read'], budget: { max_vcpus: 1 } })
      }),
    )
    assert.deepEqual([...new Set(answers.map(({ status }) => status))], [201])
    await assertTrue()
  })

  test('terminates an expired instance, even with termination protection, with a reason', async () => {
    const ci = await key({ ttl_seconds: 600 })
    const { id, expires_at, created_at } = await create(ci.call, { termination_protection: true })
    assert.equal(Date.parse(expires_at) - Date.parse(created_at), 600_000)
    await pass(id, 'running')
    const left = (Date.parse(expires_at) - Date.parse(created_at)) / 1000
    const { body: same } = await ci.call('PUT', `/v2/instances/${id}`, { expires_at: null, tags: { a: 'b' } })
    assert.equal(same.expires_at, expires_at, 'read-only')
    assert.equal((await ci.call('DELETE', `/v2/instances/${id}`)).body.code, 'termination_protected')
    const [{ now }] = (await world.owner`
      select environment_now(${world.test.principal.environment_id}) as now`) as any
    await world.advance(Math.floor((Date.parse(expires_at) - now.getTime()) / 1000) - 1)
    // Other work is done meanwhile; the instance still exists one second before its expiry.
    await create(world.callTest).then((other) => terminate(other.id))
    assert.equal((await ci.call('GET', `/v2/instances/${id}`)).body.status, 'running')
    await world.advance(1)
    const gone = await world.reach(id, 'terminated')
    assert.deepEqual([gone.status_reason.code, gone.terminated_at], ['expired', expires_at])
    assert.deepEqual(await ci.used(), [0, 0])
    const [event] = await world.owner<{ data: any }[]>`
      select data from events where resource_id = ${id} and type = 'instance.terminated'`
    assert.equal(event!.data.object.status_reason.code, 'expired')
    assert.equal(left, 600)
  })

  test('terminates an expired instance in every state: without a machine, stopped, failed', async () => {
    const ci = await key({ ttl_seconds: 300 })
    const failed = await create(ci.call, { tags: { simulate: 'create_fails' } })
    await pass(failed.id, 'failed')
    const stopped = await create(ci.call)
    await pass(stopped.id, 'running')
    await ci.call('POST', `/v2/instances/${stopped.id}/actions/stop`)
    await pass(stopped.id, 'stopped')
    const fresh = await create(ci.call)
    await world.advance(301)
    for (const { id } of [failed, stopped, fresh]) {
      assert.equal((await world.reach(id, 'terminated')).status_reason.code, 'expired')
      const again = await ci.call('POST', `/v2/instances/${id}/actions/start`)
      assert.equal(again.body.code, 'invalid_state')
    }
    assert.deepEqual(await ci.used(), [0, 0])
  })

  test('filters instances by the key that created them', async () => {
    const ci = await key({ max_instances: 3 })
    const { id } = await create(ci.call)
    const ids = async (query: string) => {
      const { body } = await world.callTest('GET', `/v2/instances?${query}`)
      return body.data.map((row: { id: string }) => row.id)
    }
    assert.deepEqual(await ids(`created_by=${ci.id}`), [id])
    assert.deepEqual(await ids('created_by=key_0000000000'), [])
  })

  test('the sweep corrects a wrong count', async () => {
    const ci = await key({ max_instances: 3 })
    await create(ci.call)
    const { sql } = world.deps
    await world.owner`update budgets set used_instances = 7, used_vcpus = 0 where id = (select budget_id from api_keys where id = ${ci.id})`
    assert.equal((await launch(ci.call)).status, 409)
    await Promise.all([recountBudgets(sql), recountBudgets(sql), launch(ci.call)])
    await recountBudgets(sql)
    await assertTrue()
    assert.ok((await ci.used())[0]! <= 2)
  })
})
