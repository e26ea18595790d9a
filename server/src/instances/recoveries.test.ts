/** Recoveries through the API, on simulated machines that fail on demand: statuses, events, records and statistics. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { caller } from '../http/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { createWorld, type World } from './testing-world.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', network: { assign_public_ip: true } }

describe('recoveries', () => {
  let world: World
  let boot = 'first'
  before(async () => {
    world = await createWorld({ boot: () => boot })
  })
  after(() => world.stop())

  const create = async (body: object = {}) => (await world.callTest('POST', '/v2/instances', { ...BODY, ...body })).body
  const get = async (path: string) => (await world.callTest('GET', path)).body
  const recoveriesOf = async (id: string) => (await get(`/v2/instances/${id}/recoveries`)).data
  const eventsOf = (id: string) =>
    world.owner<{ type: string; data: any }[]>`
      select type, data from events where resource_id = ${id} order by sequence`

  /** Advances the clock until a recovery has ended. `recovering` can be too short to observe: a disk resumes immediately. */
  async function passToRecovery(id: string): Promise<void> {
    for (let seconds = 0; seconds < 600; seconds++) {
      const [recovery] = await recoveriesOf(id)
      if (recovery?.ended_at) return
      await world.advance(1)
      await systemClock.sleep(10)
    }
    throw new Error(`${id} does not recover`)
  }

  const CAUSES = {
    crash_once: 'process_died',
    panic_once: 'guest_panicked',
    hang_once: 'guest_hung',
    disk_error_once: 'disk_error',
    host_reboot_once: 'host_rebooted',
  }
  for (const [simulate, cause] of Object.entries(CAUSES)) {
    test(`${cause}: recovers the instance, with a record and two events that have the cause`, async () => {
      const made = await create({ tags: { simulate } })
      const first = await world.pass(made.id, 'running')
      await passToRecovery(made.id)
      const up = await world.pass(made.id, 'running')
      for (const field of ['id', 'public_ip', 'private_ip', 'ready_at', 'created_at', 'ssh'])
        assert.deepEqual(up[field], first[field], field)
      const [recovery, ...more] = await recoveriesOf(made.id)
      assert.deepEqual(more, [])
      const { detected_at, started_at, ended_at, down_since, downtime_seconds } = recovery
      assert.deepEqual(
        [recovery.number, recovery.cause, recovery.outcome, recovery.attempts],
        [1, cause, 'recovered', 1],
      )
      assert.ok(down_since <= detected_at && detected_at <= started_at && started_at <= ended_at)
      assert.equal(downtime_seconds, (Date.parse(ended_at) - Date.parse(down_since)) / 1000)
      const emitted = (await eventsOf(made.id)).filter(({ type }) => /recover/.test(type))
      const { status, desired_status } = emitted[0]!.data.object
      assert.deepEqual([status, desired_status], ['recovering', 'running'])
      assert.deepEqual(
        emitted.map(({ type, data }) => [type, data.details]),
        [
          ['instance.recovering', { cause, attempt: 1, detected_at }],
          ['instance.recovered', { cause, attempt: 1, downtime_seconds, detected_at }],
        ],
      )
    })
  }

  test('without auto_recovery, each cause has its own code and a start succeeds', async () => {
    const codes = { crash_once: 'machine_exited', panic_once: 'guest_panicked', hang_once: 'guest_hung' }
    for (const [simulate, code] of Object.entries({ ...codes, disk_error_once: 'disk_error' })) {
      const { id } = await create({ tags: { simulate }, auto_recovery: false })
      const failed = await world.pass(id, 'failed')
      assert.equal(failed.status_reason.code, code)
      assert.deepEqual(await recoveriesOf(id), [])
      await world.callTest('POST', `/v2/instances/${id}/actions/start`)
      assert.equal((await world.pass(id, 'running')).status_reason, null)
    }
  })

  test('a crash loop ends in failed, and a manual start resets the count', async () => {
    const { id } = await create({ tags: { simulate: 'crash_loop' } })
    const failed = await world.pass(id, 'failed')
    assert.equal(failed.status_reason.code, 'crash_loop')
    const all = await recoveriesOf(id)
    assert.deepEqual(
      all.map((each: any) => [each.number, each.outcome]),
      [5, 4, 3, 2, 1].map((number) => [number, 'recovered']),
    )
    const waits = all.map((each: any) =>
      Math.round((Date.parse(each.started_at) - Date.parse(each.detected_at)) / 1000),
    )
    assert.deepEqual(waits.reverse(), [0, 10, 20, 40, 80])
    await world.callTest('POST', `/v2/instances/${id}/actions/start`)
    await world.pass(id, 'running')
    await world.pass(id, 'recovering')
    await world.pass(id, 'running')
    assert.deepEqual([(await recoveriesOf(id))[0].number, (await recoveriesOf(id))[0].attempts], [6, 1])
    await world.callTest('DELETE', `/v2/instances/${id}`)
  })

  test('a stop cancels a waiting recovery', async () => {
    const { id } = await create({ tags: { simulate: 'crash_loop' } })
    for (const status of ['running', 'recovering', 'running', 'recovering']) await world.pass(id, status)
    await world.callTest('POST', `/v2/instances/${id}/actions/stop`)
    await world.pass(id, 'stopped')
    await world.advance(600)
    await world.reach(id, 'stopped')
    const all = await recoveriesOf(id)
    assert.deepEqual([all[0].outcome, all[0].attempts, all[0].downtime_seconds], ['cancelled', 0, null])
    const types = (await eventsOf(id)).map(({ type }) => type)
    assert.equal(types.at(-1), 'instance.stopped')
  })

  test('a guest that powers itself off is stopped, not failed', async () => {
    const { id } = await create({ tags: { simulate: 'guest_powers_off' } })
    await world.pass(id, 'running')
    await world.pass(id, 'stopped')
    assert.deepEqual(await recoveriesOf(id), [])
  })

  test('after a host reboot, restarts instances by priority, two at a time', async () => {
    const priorities = [10, 50, 90, 50, 70]
    const ids: string[] = []
    for (const recovery_priority of priorities) ids.push((await create({ recovery_priority })).id)
    const [stopped, unwanted, gone] = [await create(), await create({ auto_recovery: false }), await create()]
    for (const id of [...ids, stopped.id, unwanted.id, gone.id]) await world.pass(id, 'running')
    await world.callTest('POST', `/v2/instances/${stopped.id}/actions/stop`)
    await world.pass(stopped.id, 'stopped')
    await world.callTest('DELETE', `/v2/instances/${gone.id}`)
    await world.pass(gone.id, 'terminated')
    const updated = await world.callTest('PATCH', `/v2/instances/${ids[0]}`, { recovery_priority: 0 })
    assert.equal(updated.body.recovery_priority, 0)
    const booting = await create() // has never been ready
    await world.reach(booting.id, 'provisioning')
    await world.advance(3)

    boot = 'second'
    await world.owner`update work set due_at = '2000-01-01' where kind = 'instance'`
    world.engine.nudge()
    let most = 0
    const inOrder = [2, 4, 1, 3, 0]
    for (let second = 0; second < 200; second++) {
      const rows = await world.owner<{ id: string; started: boolean; open: boolean }[]>`
        select id, recovery ->> 'attempts' <> '0' as started, recovery ->> 'outcome' is null as open from instances
        where id = any(${[...ids, booting.id]}) and recovery is not null`
      most = Math.max(most, rows.filter((row) => row.started && row.open).length)
      const started = inOrder.map((index) => rows.some((row) => row.id === ids[index] && row.started))
      assert.deepEqual([...started].sort().reverse(), started, 'by priority, then by age')
      const all = await Promise.all([...ids, booting.id].map((id) => get(`/v2/instances/${id}`)))
      if (started.every((each) => each) && all.every((each) => each.status === 'running')) break
      await world.advance(1)
      await new Promise((resolve) => setTimeout(resolve, 30))
    }
    assert.equal(most, 2, 'exactly as many concurrent starts as allowed')
    assert.equal((await get(`/v2/instances/${stopped.id}`)).status, 'stopped')
    assert.equal((await get(`/v2/instances/${gone.id}`)).status, 'terminated')
    assert.equal((await world.pass(unwanted.id, 'failed')).status_reason.code, 'machine_exited')
    const types = (await eventsOf(booting.id)).map(({ type }) => type)
    assert.deepEqual(
      types,
      ['instance.created', 'instance.ready'],
      'an instance that was never ready stays in provisioning',
    )
  })

  test('the recovery statistics cover all recoveries, by cause', async () => {
    const objective = await get('/v2/recovery_objective')
    assert.ok(objective.total > objective.recovered && objective.recovered >= 15)
    const causes = Object.fromEntries(objective.causes.map((each: any) => [each.cause, each]))
    assert.deepEqual(Object.keys(causes).sort(), Object.values(CAUSES).sort())
    assert.equal(
      objective.causes.reduce((sum: number, each: any) => sum + each.total, 0),
      objective.total,
    )
    const { downtime_seconds, ready_seconds } = causes.process_died
    assert.ok(downtime_seconds.p50 >= ready_seconds.p50 && ready_seconds.p50 >= 6)
    assert.ok(downtime_seconds.p50 <= downtime_seconds.p90 && downtime_seconds.p90 <= downtime_seconds.p99)
    assert.equal(causes.host_rebooted.detect_seconds?.samples ?? 0, 1, 'the time of a host failure is unknown')
    const other = caller(world.app, (await world.tenant()).test.key)
    const none = (await other('GET', '/v2/recovery_objective')).body
    assert.deepEqual([none.total, none.ready_seconds, none.causes], [0, null, []], "nothing of another tenant's")
  })

  test('lists recoveries in pages, and only within the environment', async () => {
    const [most] = await world.owner<{ id: string }[]>`
      select instance_id as id from recoveries group by 1 order by count(*) desc limit 1`
    const { id } = most!
    const one = await world.callTest('GET', `/v2/instances/${id}/recoveries?limit=2&sort=created_at`)
    assert.deepEqual([one.body.data.map((each: any) => each.number), one.body.pagination.has_more], [[1, 2], true])
    const two = await world.callTest(
      'GET',
      `/v2/instances/${id}/recoveries?limit=2&sort=created_at&cursor=${one.body.pagination.next_cursor}`,
    )
    assert.equal(two.body.data[0].number, 3)
    const other = caller(world.app, (await world.tenant()).test.key)
    for (const call of [other, world.call])
      assert.equal((await call('GET', `/v2/instances/${id}/recoveries`)).status, 404, 'not from another environment')
  })
})
