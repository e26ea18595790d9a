import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { allocateAddresses } from '../addresses/store.ts'
import { caller, createTestApp, createTestTenant } from '../http/testing.ts'
import { findSubnet } from './store.ts'

const { app, deps, owner, call, live, test: sandbox } = await createTestApp()
after(() => app.close())
const { environment_id } = live.principal
const sql = deps.sql.as(environment_id)
const body = (cidr: string, more: object = {}) => ({ region: 'us-east-1', name: 'backend', cidr, ...more })

/** The default subnet of a new project. */
async function insertDefault(environment: string): Promise<string> {
  const id = 'sub_8f7e6d5c4b'
  const pool = `subnet:${environment}:${id}`
  await owner`insert into address_pools (id, environment_id, range) values (${pool}, ${environment}, '10.77.0.0/16')`
  await owner`
    insert into subnets (environment_id, id, region, name, range, pool_id, is_default, created_at)
    values (${environment}, ${id}, 'us-east-1', 'default', '10.77.0.0/16', ${pool}, true, now())`
  return id
}

test('creates, returns, lists and deletes a subnet and its pool', async () => {
  const made = await call('POST', '/v2/subnets', body('10.1.0.0/24'))
  assert.equal(made.status, 201)
  const { id, created_at, ...rest } = made.body
  assert.deepEqual(rest, { name: 'backend', region: 'us-east-1', cidr: '10.1.0.0/24', is_default: false })
  assert.equal(made.headers.location, `http://localhost:8080/v2/subnets/${id}`)
  assert.deepEqual((await call('GET', `/v2/subnets/${id}`)).body, made.body)
  assert.equal((await call('GET', '/v2/subnets?region=us-east-1,other')).body.data.length, 1)
  assert.equal((await call('GET', '/v2/subnets?region=other')).body.data.length, 0)
  const row = await findSubnet(sql, environment_id, id)
  const allocated = await sql.begin((tx) => allocateAddresses(tx, row!.pool_id, ['inst_1']))
  assert.equal(allocated?.get('inst_1'), '10.1.0.2')
  await owner`delete from addresses`
  assert.equal((await call('DELETE', `/v2/subnets/${id}`)).status, 204)
  assert.equal((await call('GET', `/v2/subnets/${id}`)).status, 404)
  assert.equal((await owner`select from address_pools where id = ${row!.pool_id}`).length, 0)
})

test('live subnets have a unique segment on the host, test subnets none', async () => {
  const first = await call('POST', '/v2/subnets', body('10.2.0.0/24'))
  // The sequence has wrapped around to a segment that is in use.
  const row = await findSubnet(sql, environment_id, first.body.id)
  await owner`select setval('subnet_segments', ${row!.segment}, false)`
  const second = await call('POST', '/v2/subnets', body('10.3.0.0/24'))
  const other = await findSubnet(sql, environment_id, second.body.id)
  assert.ok(row!.segment! > 0 && other!.segment! > row!.segment!)
  const simulated = await caller(app, sandbox.key)('POST', '/v2/subnets', body('10.2.0.0/24'))
  assert.equal(simulated.status, 201)
  const [{ segment }] = (await owner`select segment from subnets where id = ${simulated.body.id}`) as [any]
  assert.equal(segment, null)
})

test('returns 409 for a range that overlaps another of the environment, also for concurrent requests', async () => {
  const { body: kept } = await call('POST', '/v2/subnets', body('10.4.0.0/20'))
  for (const cidr of ['10.4.0.0/20', '10.4.1.0/24', '10.4.0.0/16']) {
    const answer = await call('POST', '/v2/subnets', body(cidr))
    assert.deepEqual([answer.status, answer.body.code, answer.body.conflicting_id], [409, 'conflict', kept.id])
  }
  const answers = await Promise.all(Array.from({ length: 6 }, () => call('POST', '/v2/subnets', body('10.5.0.0/24'))))
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 409, 409, 409, 409, 409])
  const stranger = await createTestTenant(deps)
  assert.equal((await caller(app, stranger.live.key)('POST', '/v2/subnets', body('10.4.0.0/20'))).status, 201)
  assert.equal((await caller(app, stranger.live.key)('GET', `/v2/subnets/${kept.id}`)).status, 404)
  assert.equal((await caller(app, stranger.live.key)('DELETE', `/v2/subnets/${kept.id}`)).status, 404)
})

test('returns 422 with all errors', async () => {
  const answer = await call('POST', '/v2/subnets', body('10.1.2.3/24', { region: 'moon' }))
  assert.equal(answer.status, 422)
  assert.deepEqual(
    answer.body.errors.map(({ pointer, code }: { pointer: string; code: string }) => [pointer, code]),
    [
      ['/region', 'unknown'],
      ['/cidr', 'not_canonical'],
    ],
  )
})

test('returns 409 for the default subnet and for a subnet that contains instances', async () => {
  const id = await insertDefault(environment_id)
  const refused = await call('DELETE', `/v2/subnets/${id}`)
  assert.deepEqual([refused.status, refused.body.code], [409, 'conflict'])

  const { body: made } = await call('POST', '/v2/subnets', body('10.6.0.0/24'))
  await insertInstance(made.id, 'running')
  const used = await call('DELETE', `/v2/subnets/${made.id}`)
  assert.deepEqual([used.status, used.body.code], [409, 'in_use'])
  await owner`update instances set status = 'terminated'`
  assert.match((await call('DELETE', `/v2/subnets/${made.id}`)).body.detail, /24 hours/)
  await owner`delete from instances`
  assert.equal((await call('DELETE', `/v2/subnets/${made.id}`)).status, 204)
})

async function insertInstance(subnet: string, status: string): Promise<void> {
  await owner`
    insert into images (id, name, description, source, ready_signal, ssh_user, created_at)
    values ('img_0000000001', 'x', '', '{}', 'guest', 'root', now())`
  await owner`
    insert into instances (id, environment_id, mode, region, name, hostname, image, image_id, subnet_id, private_ip, mac,
      ports, ssh_public_keys, ssh_user, tags, auto_recovery, termination_protection, ready_timeout_seconds, created_at,
      updated_at, wanted_power, wanted_run, wanted_disk, wanted_plan, wanted_vcpus, wanted_memory_bytes,
      wanted_disk_bytes, wanted_activity, wanted_at, status)
    values ('inst_0000000001', ${environment_id}, 'live', 'us-east-1', 'x', 'x', 'x', 'img_0000000001', ${subnet},
      '10.6.0.2', '02:00:00:00:00:01', '{22}', '{}', 'root', '{}', true, false, 300, now(), now(), 'running', 1, 1,
      'micro-1x', 1, 1, 1, 'provisioning', now(), ${status})`
}
