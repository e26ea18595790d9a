import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Query } from '../db/database.ts'
import { caller, createTestApp, TEST_CAPACITY } from '../http/testing.ts'
import type { Size } from '../lib/capacity.ts'
import { CapacityExhausted } from '../lib/insufficient-capacity.ts'
import { reserveCapacity, usedCapacity } from './store.ts'

const { app, deps, owner, call, live, test: sandbox } = await createTestApp()
after(() => app.close())
const MIB = 2 ** 20
const GIB = 2 ** 30
const sql = deps.sql.as(live.principal.environment_id)
const [region] = deps.regions
const [micro, standard4, standard8] = deps.config.plans
await owner`alter table instances drop constraint instances_image_id_fkey`
await owner`alter table instances drop constraint instances_environment_id_subnet_id_fkey`

let made = 0
async function insert(plan: Size, more: { mode?: string; status?: string } = {}, query: Query = owner) {
  const id = `inst_${String(made++).padStart(10, '0')}`
  await query`
    insert into instances (id, environment_id, mode, region, name, hostname, image, image_id, subnet_id, private_ip, mac,
      ports, ssh_public_keys, ssh_user, tags, auto_recovery, termination_protection, ready_timeout_seconds, created_at,
      updated_at, wanted_power, wanted_run, wanted_disk, wanted_plan, wanted_vcpus, wanted_memory_bytes,
      wanted_disk_bytes, wanted_activity, wanted_at, status)
    select ${id}, ${live.principal.environment_id}, ${more.mode ?? 'live'}, 'us-east-1', 'x', 'x', 'x', 'x', 'x', '10.6.0.2',
      '02:00:00:00:00:01', '{22}', '{}', 'root', '{}', true, false, 300, now(), now(), 'running', 1, 1, 'x',
      ${plan.vcpus}::integer, ${plan.memory_bytes}::bigint, ${plan.disk_bytes}::bigint, 'provisioning', now(),
      ${more.status ?? 'running'}`
  return id
}
const reserve = (plan = micro!, instance: { id: string } | null = null, mode: 'live' | 'test' = 'live') =>
  sql.begin((tx) => reserveCapacity(tx, deps.config, region!, mode, instance, [plan]))
const refusal = async (attempt: Promise<unknown>) => {
  const error = await attempt.then(
    () => null,
    (error: unknown) => error,
  )
  assert.ok(error instanceof CapacityExhausted)
  return [error.extensions.scope, error.extensions.resource, error.extensions.retryable, error.extensions.alternatives]
}

test('a live key sees hypervisor and capacity, a test key no limit', async () => {
  const { body } = await call('GET', '/v2/regions')
  const used = { vcpus: 0, memory_bytes: 0, disk_bytes: 0 }
  const hypervisor = { name: 'QEMU', accelerator: 'none', reason: 'a test' }
  const shown = {
    id: 'us-east-1',
    name: 'This host',
    status: 'available',
    hypervisor,
    isolation: null,
    capacity: { total: TEST_CAPACITY, used },
  }
  assert.deepEqual(body, { data: [shown], pagination: { next_cursor: null, has_more: false } })
  const simulated = await caller(app, sandbox.key)('GET', '/v2/regions')
  assert.equal(simulated.body.data[0].hypervisor.name, 'simulated')
  assert.equal(simulated.body.data[0].capacity, null)
})

test('used is what live instances have reserved, and the memory of their machines', async () => {
  const id = await insert({ vcpus: 2, memory_bytes: GIB, disk_bytes: 3 * GIB })
  await insert({ vcpus: 1, memory_bytes: 128 * MIB, disk_bytes: GIB }, { status: 'stopped' })
  await insert({ vcpus: 8, memory_bytes: GIB, disk_bytes: GIB }, { status: 'terminated' })
  await insert({ vcpus: 8, memory_bytes: GIB, disk_bytes: GIB }, { mode: 'test' })
  const used = { vcpus: 3, memory_bytes: GIB + (128 + 2 * 128) * MIB, disk_bytes: 4 * GIB }
  assert.deepEqual(await usedCapacity(sql, 'us-east-1'), used)
  assert.equal((await usedCapacity(sql, 'us-east-1', id)).vcpus, 1)
  assert.deepEqual((await call('GET', '/v2/regions')).body.data[0].capacity.used, used)
  assert.equal((await usedCapacity(sql, 'elsewhere')).vcpus, 0)
  await owner`delete from instances`
})

test('rejects permanently a plan larger than the region, and names the plans that fit', async () => {
  const fits = ['micro-1x', 'standard-4x']
  assert.deepEqual(await refusal(reserve(standard8)), ['plan', 'memory_bytes', false, fits])
  await reserve(standard8, null, 'test')
})

test('what is full is refused until there is room; an instance is not in its own way', async () => {
  const id = await insert(standard4!)
  assert.deepEqual(await refusal(reserve(standard4)), ['host', 'memory_bytes', true, ['micro-1x']])
  await reserve(standard4, { id })
  await reserve(micro)
  await owner`delete from instances`
  await reserve(standard4)
})

test('at the same time, exactly as many as fit are let in', async () => {
  await owner`delete from instances`
  const plan = { ...micro!, disk_bytes: 30 * GIB }
  const attempts = Array.from({ length: 8 }, () =>
    sql.begin(async (tx) => {
      await reserveCapacity(tx, deps.config, region!, 'live', null, [plan])
      await insert(plan, {}, tx)
    }),
  )
  const outcomes = await Promise.allSettled(attempts)
  assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 3)
  assert.equal((await usedCapacity(sql, 'us-east-1')).disk_bytes, 90 * GIB)
})

test('plans say whether they are available', async () => {
  const { body } = await call('GET', '/v2/plans')
  assert.deepEqual(
    body.data.map(({ id, available }: { id: string; available: boolean }) => [id, available]),
    [
      ['micro-1x', true],
      ['standard-4x', true],
      ['standard-8x', false],
    ],
  )
  assert.match(body.data[2].unavailable_reason, /us-east-1 has 12 GiB of memory .* standard-8x needs 16\.1 GiB/)
  assert.deepEqual((await call('GET', '/v2/plans/standard-8x')).body, body.data[2])
  assert.equal((await caller(app, sandbox.key)('GET', '/v2/plans/standard-8x')).body.available, true)
  assert.equal((await call('GET', '/v2/plans/standard-9x')).status, 404)
})

test('fixed lists have pages too', async () => {
  const first = await call('GET', '/v2/plans?limit=2')
  assert.deepEqual([first.body.data.length, first.body.pagination.has_more], [2, true])
  const second = await call('GET', `/v2/plans?limit=2&cursor=${first.body.pagination.next_cursor}`)
  assert.deepEqual([second.body.data[0].id, second.body.pagination.has_more], ['standard-8x', false])
  assert.equal((await call('GET', '/v2/plans?sort=created_at')).status, 400)
})
