/** Where what guests send is not filtered, only the operator's project runs live instances. */
import assert from 'node:assert/strict'
import { after, before, beforeEach, test } from 'node:test'
import type { Isolation } from '../drivers/driver.ts'
import { createSimulatedDriver } from '../drivers/simulated/driver.ts'
import { type Call, caller } from '../http/testing.ts'
import { createWorld, type World } from './testing-world.ts'

const FILTERED: Isolation = { egress: 'filtered', process_limits: 'cgroup', reason: 'a test' }
const UNFILTERED: Isolation = { egress: 'unfiltered', process_limits: 'none', reason: 'a test' }
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

let world: World
let isolation = FILTERED
let operator: Call
let tenant: Call
let sandbox: Call
before(async () => {
  world = await createWorld({
    live: (sql) => ({ ...createSimulatedDriver({ sql, seed: 1 }), isolation: () => isolation }),
  })
  const other = await world.tenant()
  operator = world.call
  tenant = caller(world.app, other.live.key)
  sandbox = caller(world.app, other.test.key)
})
after(() => world?.stop())
beforeEach(() => (isolation = FILTERED))

const regionOf = async (call: Call) => (await call('GET', '/v2/regions')).body.data[0]

test('the region says whether guests are isolated, and whether it is available to the project', async () => {
  assert.deepEqual((await regionOf(tenant)).isolation, FILTERED)
  assert.equal((await regionOf(tenant)).status, 'available')
  isolation = UNFILTERED
  assert.deepEqual((await regionOf(tenant)).isolation, UNFILTERED)
  assert.equal((await regionOf(tenant)).status, 'unavailable')
  assert.equal((await regionOf(operator)).status, 'available')
  const simulated = await regionOf(sandbox)
  assert.deepEqual([simulated.status, simulated.isolation], ['available', null])
})

test('returns 409 for live instances of other projects, and creates nothing', async () => {
  isolation = UNFILTERED
  const refused = await tenant('POST', '/v2/instances', BODY)
  assert.deepEqual([refused.status, refused.body.code], [409, 'invalid_state'])
  assert.match(refused.body.detail, /us-east-1 does not filter what guests send.*running\.md.*allow_unfiltered_guests/)
  assert.equal((await tenant('POST', '/v2/instances?dry_run=true', BODY)).status, 409)
  assert.deepEqual((await tenant('GET', '/v2/instances')).body.data, [])
  assert.equal((await operator('POST', '/v2/instances', BODY)).status, 201)
  assert.equal((await sandbox('POST', '/v2/instances', BODY)).status, 201)
})

test('the operator can allow all projects', async () => {
  isolation = UNFILTERED
  const { config } = world.deps
  world.deps.config = { ...config, allow_unfiltered_guests: true }
  try {
    assert.equal((await regionOf(tenant)).status, 'available')
    assert.equal((await tenant('POST', '/v2/instances?dry_run=true', BODY)).status, 200)
  } finally {
    world.deps.config = config
  }
})

test('does not start an instance of another project after the filter is gone, and starts it when it is back', async () => {
  const { body } = await tenant('POST', '/v2/instances', BODY)
  const path = `/v2/instances/${body.id}`
  const action = async (name: string) =>
    assert.equal((await tenant('POST', `${path}/actions/${name}`, name === 'stop' ? { force: true } : {})).status, 202)
  await world.reach(body.id, 'running', tenant)
  await action('stop')
  await world.reach(body.id, 'stopped', tenant)
  isolation = UNFILTERED
  await action('start')
  const failed = await world.reach(body.id, 'failed', tenant)
  assert.equal(failed.status_reason.code, 'unfiltered_host')
  assert.match(failed.status_reason.message, /only the project of its operator/)
  isolation = FILTERED
  await action('start')
  await world.reach(body.id, 'running', tenant)
})
