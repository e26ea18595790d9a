/** Quotas are reserved by the transaction that uses them, exact under concurrency, and released on termination. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { createWorld } from '../instances/testing-world.ts'
import {
  DEFAULT_QUOTAS,
  effectiveQuotas,
  lackingQuota,
  nothingUsed,
  QUOTA_NAMES,
  type Quotas,
  type Use,
} from '../lib/quota.ts'

const world = await createWorld()
after(() => world.stop())
const { callTest: call, owner } = world
const environment = world.test.principal.environment_id

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const setQuota = (quota: Partial<Quotas>) =>
  owner`update environment_heads set quota = ${owner.json(quota)} where environment_id = ${environment}`
const limits = async () => {
  const { body } = await call('GET', '/v2/limits')
  return Object.fromEntries(body.quotas.map(({ name, ...rest }: { name: string }) => [name, rest])) as Record<
    string,
    any
  >
}

/** Asserts that the counters equal the sums over the rows. */
async function assertExact(): Promise<void> {
  const [sums] = await owner`
    select count(*)::int as instances, coalesce(sum(wanted_vcpus), 0)::int as vcpus,
      coalesce(sum(wanted_memory_bytes), 0)::bigint as memory_bytes,
      coalesce(sum(wanted_disk_bytes), 0)::bigint as disk_bytes, count(wanted_public_ip)::int as public_ips,
      0 as images, 0 as image_bytes,
      (select count(*)::int from subnets where environment_id = ${environment}) as subnets,
      (select count(*)::int from webhooks where environment_id = ${environment}) as webhooks,
      (select count(*)::int from api_keys where environment_id = ${environment} and revoked_at is null) as api_keys
    from instances where environment_id = ${environment} and status <> 'terminated'`
  const shown = await limits()
  assert.deepEqual(Object.fromEntries(QUOTA_NAMES.map((name) => [name, shown[name].used])), { ...sums })
}

async function empty(): Promise<void> {
  const { body } = await call('GET', '/v2/instances?limit=100')
  for (const { id } of body.data) {
    await call('DELETE', `/v2/instances/${id}`)
    await world.reach(id, 'terminated')
  }
  await setQuota({})
}

test('shows usage without a limit when there is no quota', async () => {
  await call('POST', '/v2/instances', { ...BODY, network: { assign_public_ip: true } })
  const { instances, vcpus, public_ips } = await limits()
  assert.deepEqual(
    [instances, vcpus, public_ips],
    [1, 1, 1].map((used) => ({ limit: null, used, remaining: null })),
  )
  await assertExact()
  await empty()
})

test('100 concurrent creates with a quota of 10 create exactly 10', async () => {
  await setQuota({ instances: 10 })
  const answers = await Promise.all(Array.from({ length: 100 }, () => call('POST', '/v2/instances', BODY)))
  const made = answers.filter((answer) => answer.status === 201)
  assert.equal(made.length, 10)
  for (const { status, body } of answers.filter((answer) => answer.status !== 201)) {
    assert.deepEqual([status, body.code, body.scope, body.resource], [409, 'capacity_exhausted', 'quota', 'instances'])
    assert.deepEqual([body.limit, body.used, body.retryable], [10, 10, true])
  }
  assert.equal((await limits()).instances.remaining, 0)
  await assertExact()

  const one = made[0]!.body
  await call('DELETE', `/v2/instances/${one.id}`)
  await world.reach(one.id, 'terminated')
  assert.equal((await call('POST', '/v2/instances', BODY)).status, 201)
  await assertExact()
  await empty()
  await assertExact()
})

test('counts a resize and a public IP address when they are requested, and never rejects a reduction', async () => {
  await setQuota({ vcpus: 4, public_ips: 0 })
  const { body } = await call('POST', '/v2/instances', BODY)
  const second = await call('POST', '/v2/instances', BODY)
  await call('POST', `/v2/instances/${body.id}/actions/stop`, { force: true })
  await world.pass(body.id, 'stopped')
  const larger = await call('PUT', `/v2/instances/${body.id}`, { plan: 'standard-4x' })
  assert.deepEqual([larger.status, larger.body.resource, larger.body.used], [409, 'vcpus', 2])
  assert.deepEqual(larger.body.alternatives, ['micro-1x'])
  const address = await call('PUT', `/v2/instances/${body.id}`, { network: { assign_public_ip: true } })
  assert.deepEqual([address.status, address.body.resource], [409, 'public_ips'])
  await call('DELETE', `/v2/instances/${second.body.id}`)
  await world.reach(second.body.id, 'terminated')
  assert.equal((await call('PUT', `/v2/instances/${body.id}`, { plan: 'standard-4x' })).status, 200)
  await setQuota({ vcpus: 1 })
  assert.equal((await call('PUT', `/v2/instances/${body.id}`, { name: 'over-quota' })).status, 200)
  await assertExact()
  await empty()
})

test("a quota is the project's own, otherwise the configured one, otherwise the default; null is no limit", () => {
  const configured = { instances: 5, vcpus: 8, webhooks: null }
  const of = effectiveQuotas(configured, { instances: null, public_ips: 1 }, false)
  const expected = { instances: null, vcpus: 8, public_ips: 1, webhooks: null, images: null }
  assert.deepEqual(of, { ...DEFAULT_QUOTAS, ...expected })
  const ofOperator = effectiveQuotas(configured, { public_ips: 1 }, true)
  const none = Object.fromEntries(QUOTA_NAMES.map((name) => [name, null]))
  assert.deepEqual(ofOperator, { ...none, instances: 5, vcpus: 8, public_ips: 1 })
})

test('rejects a request exactly when it would exceed a quota', () => {
  const amounts = fc.record(
    Object.fromEntries(QUOTA_NAMES.map((name) => [name, fc.integer({ min: -20, max: 20 })])) as Record<
      keyof Use,
      fc.Arbitrary<number>
    >,
  )
  const quotas = fc.record(
    Object.fromEntries(QUOTA_NAMES.map((name) => [name, fc.option(fc.nat(30))])) as Record<
      keyof Use,
      fc.Arbitrary<number | null>
    >,
  )
  fc.assert(
    fc.property(quotas, amounts, amounts, (limits, used, added) => {
      const lack = lackingQuota(limits, used, added)
      const over = QUOTA_NAMES.filter((name) => limits[name] !== null && used[name] + added[name] > limits[name]!)
      if (lack) assert.ok(over.includes(lack) && added[lack] > 0)
      else assert.ok(over.every((name) => added[name] <= 0))
      assert.equal(lackingQuota(limits, used, nothingUsed()), null)
    }),
  )
})
