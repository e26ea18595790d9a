/** The instances API over HTTP, with the real engine and database, on simulated machines with a frozen clock. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { CANARY } from '../db/testing-canary.ts'
import { caller } from '../http/testing.ts'
import { createWorld, type World } from './testing-world.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())

const call: World['callTest'] = (...args) => world.callTest(...args)
async function create(fields: object = {}): Promise<any> {
  const { status, body } = await call('POST', '/v2/instances', { ...BODY, ...fields })
  assert.equal(status, 201, JSON.stringify(body))
  return body
}
const pass: World['pass'] = (...args) => world.pass(...args)
async function running(fields: object = {}): Promise<any> {
  return pass((await create(fields)).id, 'running')
}
const act = (id: string, action: string, body?: object) => call('POST', `/v2/instances/${id}/actions/${action}`, body)
async function desiredStateOf(id: string): Promise<object> {
  const [row] = await world.owner`select wanted_at, wanted_request_id from instances where id = ${id}`
  return { ...row }
}
async function eventsOf(id: string): Promise<string[]> {
  const rows = await world.owner`select type from events where resource_id = ${id} order by sequence`
  return rows.map((row) => row.type.replace('instance.', ''))
}

describe('instances', { timeout: 240_000 }, () => {
  test('POST returns 201 with the documented fields in order', async () => {
    const { status, headers, body } = await call('POST', '/v2/instances', {
      region: 'us-east-1',
      plan: 'standard-4x',
      image: 'ubuntu-22.04-lts',
      network: { subnet_id: 'sub_8f7e6d5c4b', assign_public_ip: true },
      tags: { env: 'production', app: 'api-server' },
    })
    assert.equal(status, 201)
    assert.deepEqual(Object.keys(body).slice(0, 7), 'id status region plan public_ip created_at links'.split(' '))
    assert.equal(headers.location, body.links.self)
    assert.equal(headers.etag, '"1"')
    assert.match(body.public_ip, /^198\.18\./)
    assert.equal(body.created_at, '2030-01-01T00:00:00Z')
    assert.deepEqual([body.status, body.ssh, body.environment], ['provisioning', null, 'test'])
  })

  test('emits one event for each change: ready, stopped, started, rebooted, scaled, rebuilt, terminated', async () => {
    const { id } = await running({ network: { assign_public_ip: true } })
    await act(id, 'stop')
    await pass(id, 'stopped')
    assert.equal((await act(id, 'start')).body.status, 'starting')
    await pass(id, 'running')
    assert.equal((await act(id, 'reboot')).body.status, 'rebooting')
    await pass(id, 'running')
    const resized = await call('PUT', `/v2/instances/${id}?allow_reboot=true`, { plan: 'standard-4x' })
    assert.deepEqual([resized.body.status, resized.body.plan], ['resizing', 'standard-4x'])
    await pass(id, 'running')
    const { ready_at } = (await call('GET', `/v2/instances/${id}`)).body
    assert.equal((await act(id, 'rebuild', { image: 'debian-12' })).body.status, 'provisioning')
    const rebuilt = await pass(id, 'running')
    assert.deepEqual([rebuilt.image, rebuilt.ready_at > ready_at], ['debian-12', true])
    assert.equal((await call('DELETE', `/v2/instances/${id}`)).status, 202)
    const gone = await world.reach(id, 'terminated')
    assert.deepEqual([gone.public_ip, gone.private_ip], [null, null])
    assert.deepEqual(await eventsOf(id), 'created ready stopped started rebooted scaled ready terminated'.split(' '))
    const left = await world.owner`select 1 from addresses where instance_id = ${id}`
    assert.equal(left.length, 0)
    await world.advance(24 * 3600 + 1)
    assert.equal((await call('GET', `/v2/instances/${id}`)).status, 404)
  })

  test('numbers events in commit order, without gaps', async () => {
    await Promise.all(Array.from({ length: 20 }, () => create()))
    const rows = await world.owner`
      select sequence from events where environment_id = ${world.test.principal.environment_id} order by sequence`
    assert.deepEqual(
      rows.map((row) => row.sequence),
      rows.map((_, i) => i + 1),
    )
  })

  test('events have the ID of the request that caused them; a recovery has none', async () => {
    const headers = { 'x-request-id': 'the-create' }
    const made = await call('POST', '/v2/instances', { ...BODY, tags: { simulate: 'crash_once' } }, headers)
    await pass(made.body.id, 'running')
    await call('PATCH', `/v2/instances/${made.body.id}`, { name: 'other' }, { 'x-request-id': 'the-rename' })
    await pass(made.body.id, 'recovering')
    const rows = await world.owner`
      select type, request_id from events where resource_id = ${made.body.id} order by sequence`
    assert.deepEqual(
      rows.map((row) => [row.type, row.request_id]),
      [
        ['instance.created', 'the-create'],
        ['instance.ready', 'the-create'],
        ['instance.updated', 'the-rename'],
        ['instance.recovering', null],
      ],
    )
  })

  test('wait_for returns at the change, and immediately when the status cannot be reached', async () => {
    const { id } = await create()
    const waiting = call('GET', `/v2/instances/${id}?wait_for=running,failed&timeout=30`)
    await pass(id, 'running')
    assert.equal((await waiting).body.status, 'running')
    await call('DELETE', `/v2/instances/${id}`)
    assert.equal(
      (await call('GET', `/v2/instances/${id}?wait_for=running&timeout=60`)).body.status.slice(0, 9),
      'terminati',
    )
    const other = await create()
    assert.equal(
      (await call('GET', `/v2/instances/${other.id}?wait_for=stopped&timeout=1`)).body.status,
      'provisioning',
    )
  })

  test('simulates failures of creation and readiness, a crash and a power-off', async () => {
    const bad = await create({ tags: { simulate: 'create_fails' } })
    assert.equal((await world.reach(bad.id, 'failed')).status_reason.code, 'simulated_failure')
    const mute = await create({ tags: { simulate: 'never_ready' }, ready_timeout_seconds: 60 })
    assert.equal((await pass(mute.id, 'failed')).status_reason.code, 'ready_timeout')
    const crashing = await running({ tags: { simulate: 'crash_once' } })
    await pass(crashing.id, 'recovering')
    await pass(crashing.id, 'running')
    assert.deepEqual(await eventsOf(crashing.id), ['created', 'ready', 'recovering', 'recovered'])
    const leaving = await running({ tags: { simulate: 'guest_powers_off' } })
    const off = await pass(leaving.id, 'stopped')
    assert.equal(off.desired_status, 'stopped')
  })

  test('stops a guest that ignores the power button by force after the timeout', async () => {
    const { id } = await running({ tags: { simulate: 'ignores_power_down' } })
    await act(id, 'stop', { timeout_seconds: 20 })
    await world.advance(10)
    assert.equal((await call('GET', `/v2/instances/${id}`)).body.status, 'stopping')
    const before = await desiredStateOf(id)
    await call('PUT', `/v2/instances/${id}`, { tags: { simulate: 'ignores_power_down', a: 'b' } })
    assert.deepEqual(
      await desiredStateOf(id),
      before,
      'a change of tags neither extends the stop timeout nor replaces its request',
    )
    await pass(id, 'stopped')
    await act(id, 'start')
    await pass(id, 'running')
    await act(id, 'stop', { force: true })
    await world.reach(id, 'stopped')
  })

  test('409 invalid_state lists the allowed actions', async () => {
    const { id } = await create()
    const { status, body } = await act(id, 'reboot')
    assert.deepEqual([status, body.code, body.status], [409, 'invalid_state', 409])
    assert.deepEqual([body.current_status, body.allowed_actions], ['provisioning', ['stop']])
  })

  test('an action has no effect if the instance is already in that state', async () => {
    const { id, version } = await running()
    const { status, body } = await act(id, 'start')
    assert.deepEqual([status, body.version], [202, version])
  })

  test('PUT accepts the output of GET, rejects immutable fields, and applies the rules of plans', async () => {
    const { id } = await running({ network: { assign_public_ip: true, ports: [8080] } })
    const shown = (await call('GET', `/v2/instances/${id}`)).body
    const back = await call('PUT', `/v2/instances/${id}`, shown)
    assert.deepEqual([back.status, back.body], [200, shown])
    const fixed = await call('PUT', `/v2/instances/${id}`, { region: 'elsewhere', image: 'x', name: 'new' })
    assert.deepEqual([fixed.status, fixed.body.code], [422, 'immutable_field'])
    assert.deepEqual(
      fixed.body.errors.map((e: any) => e.pointer),
      ['/region', '/image'],
    )
    assert.equal((await call('GET', `/v2/instances/${id}`)).body.name, shown.name)
    const reboot = await call('PUT', `/v2/instances/${id}`, { plan: 'standard-4x' })
    assert.deepEqual([reboot.status, reboot.body.code], [409, 'reboot_required'])
    await act(id, 'stop', { force: true })
    await world.reach(id, 'stopped')
    assert.equal((await call('PUT', `/v2/instances/${id}`, { plan: 'standard-4x' })).status, 200)
    const small = await call('PUT', `/v2/instances/${id}`, { plan: 'micro-1x' })
    assert.deepEqual([small.status, small.body.code], [422, 'disk_cannot_shrink'])
    await world.reach(id, 'stopped')
    assert.equal((await eventsOf(id)).at(-1), 'scaled')
  })

  test('PUT unassigns and assigns a public IP address without a reboot', async () => {
    const { id, public_ip } = await running({ network: { assign_public_ip: true } })
    assert.equal(
      (await call('PUT', `/v2/instances/${id}`, { network: { assign_public_ip: false } })).body.public_ip,
      null,
    )
    for (let i = 0; (await world.owner`select 1 from addresses where address = ${public_ip}`).length > 0; i++) {
      assert.ok(i < 1_000, 'the address was not given back')
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    const again = (await call('PUT', `/v2/instances/${id}`, { network: { assign_public_ip: true } })).body
    assert.notEqual(again.public_ip, public_ip)
    assert.equal(again.status, 'running')
  })

  test('the same values in another order are no change, and If-Match accepts the weak form', async () => {
    const { body } = await call('POST', '/v2/instances', { ...BODY, tags: { role: 'web', env: 'prod' } })
    const url = `/v2/instances/${body.id}`
    for (const tags of [
      { env: 'prod', role: 'web' },
      { role: 'web', env: 'prod' },
    ]) {
      const same = await call('PUT', url, { tags })
      assert.deepEqual([same.status, same.body.version, same.headers.etag], [200, body.version, `"${body.version}"`])
    }
    const weak = await call('PATCH', url, { name: 'renamed' }, { 'if-match': `"0", W/"${body.version}"` })
    assert.deepEqual([weak.status, weak.body.version], [200, body.version + 1])
  })

  test('DELETE respects termination protection and If-Match', async () => {
    const { id, version } = await create({ termination_protection: true })
    const kept = await call('DELETE', `/v2/instances/${id}`)
    assert.deepEqual([kept.status, kept.body.code], [409, 'termination_protected'])
    const stale = await call('PUT', `/v2/instances/${id}`, { tags: {} }, { 'if-match': '"999"' })
    assert.equal(stale.status, 412)
    const patched = await call('PATCH', `/v2/instances/${id}`, { termination_protection: false })
    assert.equal(patched.body.version > version, true)
    assert.equal((await call('DELETE', `/v2/instances/${id}`)).status, 202)
    assert.equal((await call('DELETE', `/v2/instances/${id}`)).status, 202)
  })

  test('returns 422 with all errors and their pointers', async () => {
    const { status, body } = await call('POST', '/v2/instances', {
      region: 'nowhere',
      plan: 'huge',
      image: 'windows',
      network: { subnet_id: 'sub_0000000000' },
      ssh_keys: ['ssh_0000000000'],
    })
    assert.deepEqual([status, body.code], [422, 'validation_failed'])
    assert.deepEqual(body.errors.map((e: any) => e.pointer).sort(), [
      '/image',
      '/network/subnet_id',
      '/plan',
      '/region',
      '/ssh_keys/0',
    ])
    const shape = await call('POST', '/v2/instances', {
      plan: 5,
      host: 'x',
      tags: { 'a b': 'c' },
      user_data: 'x'.repeat(65_537),
    })
    const pointers = shape.body.errors.map((e: any) => e.pointer)
    for (const pointer of ['/region', '/image', '/plan', '/host', '/user_data'])
      assert.ok(pointers.includes(pointer), pointer)
  })

  test('rejects unusual strings or returns them unchanged', async () => {
    const values = [
      'a,b=c',
      '"quoted"',
      'json:{"driver":"raw"}',
      'nbd://x',
      '-',
      '../../etc/passwd',
      '🚀 ünï',
      "'; drop table",
      'x'.repeat(256),
    ]
    for (const value of values) {
      const { body } = await call('POST', '/v2/instances', { ...BODY, tags: { v: value } })
      assert.equal(body.tags.v, value)
      assert.equal(
        (await call('GET', `/v2/instances?tag=${encodeURIComponent(`v:${value}`)}`)).body.data[0].id,
        body.id,
      )
      const named = await call('POST', '/v2/instances', { ...BODY, name: value })
      if (named.status === 201) assert.equal(named.body.name, value)
      else assert.deepEqual([named.status, named.body.errors[0].pointer], [422, '/name'])
    }
    for (const value of ['line\nbreak', 'nul\0', '\u001b[31m', '\ud800', 'x'.repeat(10_000)]) {
      for (const fields of [{ tags: { v: value } }, { name: value }, { hostname: value }, { image: value }]) {
        const { status, body } = await call('POST', '/v2/instances', { ...BODY, ...fields })
        assert.deepEqual([status, body.code], [422, 'validation_failed'], JSON.stringify(fields).slice(0, 80))
      }
    }
    const data = `#!/bin/sh\necho "a,b=c" 'x' $(y) \\ \u0001 🚀 ${CANARY}\n`
    const kept = await create({ user_data: data })
    assert.ok(!JSON.stringify(kept).includes('echo'), 'user data is never shown')
  })

  test('lists with filters, with stable pages during changes, and rejects invalid cursors', async () => {
    const mark = `m${Math.floor(performance.now())}`
    const made: any[] = []
    for (let i = 0; i < 7; i++)
      made.push(await create({ name: `${mark}-${i}`, tags: { mark, even: String(i % 2 === 0) } }))
    const list = async (query: string) => (await call('GET', `/v2/instances?${query}`)).body
    assert.equal((await list(`tag=mark:${mark}`)).data.length, 7)
    assert.equal((await list(`tag=mark:${mark}&tag=even:true`)).data.length, 4)
    assert.deepEqual(
      (await list(`name=${mark}-1,${mark}-3`)).data.map((i: any) => i.name),
      [`${mark}-3`, `${mark}-1`],
    )
    const seen: string[] = []
    let cursor = ''
    do {
      const page = await list(`tag=mark:${mark}&limit=2${cursor && `&cursor=${cursor}`}`)
      seen.push(...page.data.map((i: any) => i.id))
      await create({ tags: { mark } })
      cursor = page.pagination.next_cursor ?? ''
    } while (cursor)
    assert.deepEqual(seen, made.map((i) => i.id).reverse())
    const { next_cursor } = (await list(`tag=mark:${mark}&limit=2`)).pagination
    assert.equal((await call('GET', `/v2/instances?tag=mark:other&cursor=${next_cursor}`)).body.code, 'invalid_cursor')
    assert.equal((await call('GET', '/v2/instances?colour=red')).status, 400)
    await call('DELETE', `/v2/instances/${made[0].id}`)
    await world.reach(made[0].id, 'terminated')
    assert.ok(!(await list(`tag=mark:${mark}&limit=100`)).data.some((i: any) => i.id === made[0].id))
    assert.ok((await list(`tag=mark:${mark}&status=terminated`)).data.some((i: any) => i.id === made[0].id))
  })

  test('instances are invisible to other environments and projects', async () => {
    const { id } = await create()
    const other = await world.tenant()
    for (const key of [world.live.key, other.test.key, other.live.key]) {
      const foreign = caller(world.app, key)
      assert.equal((await foreign('GET', `/v2/instances/${id}`)).status, 404)
      assert.equal((await foreign('DELETE', `/v2/instances/${id}`)).status, 404)
      assert.ok(!(await foreign('GET', '/v2/instances')).body.data.some((i: any) => i.id === id))
    }
  })

  test('returns the console log, whole or its last lines', async () => {
    const { id } = await running()
    const log = (await call('GET', `/v2/instances/${id}/console_log`)).body as string
    assert.match(log, /guest is ready/)
    assert.equal(
      (await call('GET', `/v2/instances/${id}/console_log?tail=1`)).body,
      `${log.trim().split('\n').at(-1)}\n`,
    )
  })
})
