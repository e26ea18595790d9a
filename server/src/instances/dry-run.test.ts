/** `?dry_run=true` returns a preview and changes nothing. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { STEP_NAMES, stepsBetween } from './steps.ts'
import { newRow } from './testing.ts'
import { createWorld } from './testing-world.ts'

const world = await createWorld()
after(() => world.stop())
const { callTest: call, owner } = world
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', network: { assign_public_ip: true } }

/** Row counts of all tables that a write could change. */
async function everything(): Promise<Record<string, number>> {
  const [counts] = await owner<Record<string, number>[]>`
    select (select count(*) from instances) as instances, (select count(*) from events) as events,
      (select count(*) from addresses) as addresses, (select count(*) from audit_log) as audit,
      (select count(*) from idempotency_keys) as keys, (select sum(used_instances) from environment_heads) as used,
      (select sum(version) from instances) as versions`
  return { ...counts }
}

test('previews a create: instance, placement, quotas and steps', async () => {
  const before = await everything()
  const { status, body } = await call('POST', '/v2/instances?dry_run=true', BODY, { 'idempotency-key': 'dry' })
  assert.equal(status, 200)
  assert.deepEqual([body.dry_run, body.action, body.would_answer, body.before], [true, 'createInstance', 201, null])
  assert.equal(body.after.status, 'provisioning')
  assert.match(body.after.public_ip, /^198\.18\./)
  assert.deepEqual([body.placement.region, body.steps, body.reboots], ['us-east-1', ['create', 'boot'], false])
  assert.deepEqual(body.quotas[0], { name: 'instances', limit: null, used: 0, would_use: 1 })
  assert.equal(body.ready_seconds_lately, null)
  assert.deepEqual(await everything(), before)
  const { status: created, body: made } = await call('POST', '/v2/instances', BODY, { 'idempotency-key': 'dry' })
  assert.equal(created, 201)
  // No pass of it may change what the next test compares.
  await world.pass(made.id, 'running')
})

test('previews a resize and a termination: before, after, and whether the guest reboots', async () => {
  const { body: made } = await call('POST', '/v2/instances', BODY)
  const running = await world.pass(made.id, 'running')
  const before = await everything()
  const url = `/v2/instances/${made.id}?dry_run=true`
  const refused = await call('PUT', url, { plan: 'standard-4x' })
  assert.deepEqual([refused.status, refused.body.code], [409, 'reboot_required'])
  const { body: resize } = await call('PUT', `${url}&allow_reboot=true`, { plan: 'standard-4x' })
  assert.deepEqual([resize.before.plan, resize.after.plan, resize.reboots], ['micro-1x', 'standard-4x', true])
  assert.deepEqual(resize.steps, ['power_down', 'resize_disk', 'boot'])
  assert.ok(resize.ready_seconds_lately.samples >= 1)
  const { body: end } = await call('DELETE', url)
  assert.deepEqual([end.would_answer, end.after.status, end.steps], [202, 'terminating', ['delete']])
  assert.equal(end.quotas[0].would_use, end.quotas[0].used, 'a terminating instance counts until it is terminated')
  assert.deepEqual((await call('PUT', url, { name: made.name })).body.steps, [])
  assert.equal((await call('GET', `/v2/instances/${made.id}`)).body.version, running.version)
  const { audit: entries, ...rest } = await everything()
  const { audit: known, ...same } = before
  assert.deepEqual(rest, same)
  assert.equal(entries, known! + 1, 'only the rejected request was recorded')
})

test('returns the same errors as without dry_run', async () => {
  await owner`update environment_heads set quota = '{"instances": 0}'
    where environment_id = ${world.test.principal.environment_id}`
  const { status, body } = await call('POST', '/v2/instances?dry_run=true', BODY)
  assert.deepEqual([status, body.code, body.scope], [409, 'capacity_exhausted', 'quota'])
  assert.equal((await call('POST', '/v2/instances?dry_run=true', { ...BODY, plan: 'none' })).status, 422)
})

test('lists the steps of each kind of change', () => {
  const on = newRow({ observed_power: 'running', observed_run: 1, observed_disk: 1, observed_ready: true })
  const off = newRow({ observed_power: 'stopped', wanted_power: 'stopped', observed_disk: 1 })
  const cases: [Parameters<typeof stepsBetween>, string][] = [
    [[null, newRow(), false], 'import_image create boot'],
    [[on, on, true], ''],
    [[on, { ...on, wanted_power: 'stopped' }, true], 'power_down'],
    [[off, { ...off, wanted_power: 'running', wanted_run: 2 }, true], 'boot'],
    [[on, { ...on, wanted_run: 2 }, true], 'power_down boot'],
    [[on, { ...on, wanted_run: 2, wanted_disk: 2 }, false], 'delete import_image create boot'],
    [[off, { ...off, wanted_disk_bytes: 2 ** 40 }, true], 'resize_disk'],
    [[on, { ...on, wanted_public_ip: '198.18.0.1' }, true], 'set_public_address'],
    [[newRow(), newRow({ wanted_gone: true }), true], ''],
  ]
  for (const [args, steps] of cases) assert.equal(stepsBetween(...args).join(' '), steps)
  assert.ok(cases.flatMap(([, steps]) => steps.split(' ')).every((s) => s === '' || STEP_NAMES.includes(s as never)))
})
