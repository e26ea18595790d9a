/** The deletion of a project with everything in it, in both environments, with a real engine and simulated machines. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { ownEntry } from '../audit/store.ts'
import { createEngines } from '../engine/pools.ts'
import { withOutbox } from '../events/outbox.ts'
import { type Call, caller, testConfig } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { systemClock } from '../lib/clock.ts'
import { ApiError } from '../lib/errors.ts'
import { silentLog } from '../lib/log.ts'
import { pools } from '../reconcilers.ts'
import { until } from '../testing/until.ts'

const data_dir = mkdtempSync(join(tmpdir(), 'cn-deletion-'))
let world: World
before(async () => {
  world = await createWorld({ deps: { config: { ...testConfig, data_dir } } })
  await world.engine.stop(5_000)
  // Live instances need no import.
  await world.owner`update images set observed_state = 'present'`
})
after(async () => {
  await world?.stop()
  rmSync(data_dir, { recursive: true, force: true })
})

type Tenant = { id: string; live: Call; test: Call; environments: Record<'live' | 'test', string> }
async function project(name = 'payments'): Promise<Tenant> {
  const { body } = await world.call('POST', '/v2/projects', { name })
  const rows = await world.owner<{ id: string; mode: 'live' | 'test' }[]>`
    select id, mode from environments where project_id = ${body.id}`
  const environments = Object.fromEntries(rows.map(({ id, mode }) => [mode, id])) as Tenant['environments']
  return {
    id: body.id,
    live: caller(world.app, body.live_key),
    test: caller(world.app, body.test_key),
    environments,
  }
}

const INSTANCE = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', network: { assign_public_ip: true } }
const SSH_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f'

/** One of each resource in both environments. The live image has files. */
async function fill(tenant: Tenant): Promise<{ images: string[] }> {
  const images: string[] = []
  for (const mode of ['live', 'test'] as const) {
    const call = tenant[mode]
    const post = async (path: string, body: object, headers = {}) => {
      const answer = await call('POST', path, body, headers)
      assert.equal(answer.status, 201, JSON.stringify(answer.body))
      return answer.body
    }
    await post('/v2/webhooks', { url: 'https://hooks.test/', events: ['*'] })
    await post('/v2/ssh_keys', { name: 'a', public_key: SSH_KEY })
    const subnet = await post('/v2/subnets', { region: 'us-east-1', name: 's', cidr: '10.1.0.0/24' })
    const image = await post('/v2/images', { name: 'own', source: 'upload' })
    images.push(image.id)
    await world.owner`update images set observed_state = 'present' where id = ${image.id}`
    const scopes = ['instances:read', 'instances:write']
    const key = await post('/v2/api_keys', { name: 'ci', scopes, budget: { max_instances: 5 } })
    await post('/v2/instances', { ...INSTANCE, image: image.id }, { 'idempotency-key': 'first' })
    const budgeted = await caller(world.app, key.key)('POST', '/v2/instances', {
      ...INSTANCE,
      network: { subnet_id: subnet.id },
    })
    assert.equal(budgeted.status, 201)
    assert.equal((await call('DELETE', `/v2/subnets/${subnet.id}`)).status, 409)
  }
  for (const folder of ['images', 'imports']) mkdirSync(join(data_dir, folder, images[0]!), { recursive: true })
  mkdirSync(join(data_dir, 'uploads'), { recursive: true })
  writeFileSync(join(data_dir, 'uploads', `${images[0]}.part`), 'bytes')
  return { images }
}

/** A deleted image whose purge waits for an hour of the frozen clock, because a terminated instance refers to it. */
async function leaveDeletedImage({ test: call }: Tenant): Promise<void> {
  const { body: image } = await call('POST', '/v2/images', { name: 'old', source: 'upload' })
  await world.owner`update images set observed_state = 'present' where id = ${image.id}`
  const { body: instance } = await call('POST', '/v2/instances', { ...INSTANCE, image: image.id })
  await call('DELETE', `/v2/instances/${instance.id}`)
  await world.reach(instance.id, 'terminated', call)
  assert.equal((await call('DELETE', `/v2/images/${image.id}`)).status, 204)
  const waits = () => world.owner`
    select from work where id = ${image.id} and leased_until is null and due_at > environment_now(environment_id)`
  await until('the purge of the image waits', async () => (await waits()).count === 1)
}

const remove = (id: string, query = 'name=payments', headers = {}) =>
  world.call('DELETE', `/v2/projects/${id}?${query}`, undefined, headers)
const statusOf = async (id: string) => (await world.call('GET', `/v2/projects/${id}`)).body.status

/** Starts an engine like that of a new process; it takes over keys of ended processes immediately. */
async function startEngine(worker: string) {
  await world.owner`update work set leased_until = now() - interval '1 second' where leased_until is not null`
  const options = { sql: world.deps.sql, clock: systemClock, log: silentLog, worker, poll_ms: 50 }
  const engine = createEngines(options, pools(world.deps))
  await engine.start()
  return engine
}

/** As if the deletion had been requested a minute ago. */
const age = () => world.owner`update projects set wanted_gone_at = wanted_gone_at - interval '1 minute'`

async function runUntilDeleted(id: string): Promise<void> {
  const engine = await startEngine('deleting')
  try {
    await age()
    await until('the project is deleted', async () => {
      engine.nudge()
      return (await world.call('GET', `/v2/projects/${id}`)).status === 404
    })
  } finally {
    await engine.stop(5_000)
  }
}

/** The tables with rows of these environments or of the project, by the columns of all tables. */
async function tablesWithRows({ id, environments }: Tenant): Promise<string[]> {
  await world.deps.requests.flush()
  const columns = await world.owner<{ table: string; column: string }[]>`
    select c.table_name as table, c.column_name as column from information_schema.columns c
      join information_schema.tables t using (table_schema, table_name)
    where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
      and (c.column_name in ('environment_id', 'project_id')
        or (c.table_name in ('environments', 'projects') and c.column_name = 'id'))`
  assert.ok(columns.length > 20)
  const ids = [id, ...Object.values(environments)]
  const found: string[] = []
  for (const { table, column } of columns) {
    const { count } = await world.owner`
      select from ${world.owner(table)} where ${world.owner(column)} = any(${ids}) limit 1`
    if (count > 0) found.push(table)
  }
  return [...new Set(found)].sort()
}

describe('the request to delete a project', { timeout: 120_000 }, () => {
  let tenant: Tenant
  beforeEach(async () => {
    tenant = await project()
  })

  test('returns 400 unless the name of the project is repeated', async () => {
    for (const query of ['', 'name=other', 'force=true', 'dry_run=true&name=other']) {
      const { status, body } = await remove(tenant.id, query)
      assert.deepEqual([status, body.code, body.errors[0].parameter], [400, 'invalid_parameter', 'name'], query)
      assert.match(body.detail, /\?name=payments/)
    }
    assert.equal(await statusOf(tenant.id), 'active')
  })

  test('returns 404 for an unknown project, 412 for an older ETag, and 409 for the first project', async () => {
    assert.equal((await remove('proj_0000000000')).status, 404)
    const { headers } = await world.call('GET', `/v2/projects/${tenant.id}`)
    await world.call('PATCH', `/v2/projects/${tenant.id}`, { quotas: { live: { instances: 1 } } })
    assert.equal((await remove(tenant.id, 'name=payments', { 'if-match': headers.etag! })).status, 412)
    const { project_id } = world.live.principal
    const first = await remove(project_id, 'name=test')
    assert.deepEqual([first.status, first.body.code, first.body.current_status], [409, 'invalid_state', 'active'])
    assert.equal((await tenant.live('DELETE', `/v2/projects/${tenant.id}?name=payments`)).status, 403)
    assert.equal(await statusOf(tenant.id), 'active')
  })

  test('a dry run counts what would be deleted, names protected instances, and changes nothing', async () => {
    await fill(tenant)
    const { body: kept } = await tenant.live('POST', '/v2/instances', { ...INSTANCE, termination_protection: true })
    const contents = async () => {
      const texts: string[] = []
      for (const table of ['projects', 'instances', 'webhooks', 'api_keys', 'environment_heads', 'work', 'audit_log']) {
        const [row] = await world.owner<{ text: string }[]>`
          select string_agg(t::text, ' ' order by t::text) as text from ${world.owner(table)} t`
        // The time at which a key was used is recorded later.
        if (table !== 'api_keys') texts.push(row!.text)
      }
      return texts
    }
    const before = await contents()
    const { status, body } = await remove(tenant.id, 'dry_run=true')
    const { events, ...live } = body.live
    const each = { images: 1, subnets: 2, ssh_keys: 1, webhooks: 1, api_keys: 2 }
    assert.deepEqual(
      [status, body.would_answer, live],
      [200, 409, { ...each, instances: 3, public_ips: 2 }],
      JSON.stringify(body),
    )
    assert.deepEqual([events, body.test.instances, body.test.public_ips], [3, 2, 1])
    assert.deepEqual(body.protected_instances, [{ id: kept.id, name: kept.name, environment: 'live' }])
    assert.equal(body.project.status, 'active')
    assert.equal((await remove(tenant.id, 'dry_run=true&force=true&name=payments')).body.would_answer, 202)
    assert.deepEqual(await contents(), before)
  })

  test('returns 409 for protected instances, and deletes them with force=true', async () => {
    const { body } = await tenant.test('POST', '/v2/instances', { ...INSTANCE, termination_protection: true })
    const refused = await remove(tenant.id)
    assert.deepEqual([refused.status, refused.body.code], [409, 'termination_protected'])
    assert.deepEqual(refused.body.protected_instances, [{ id: body.id, name: body.name, environment: 'test' }])
    assert.equal(await statusOf(tenant.id), 'active')
    assert.equal((await remove(tenant.id, 'name=payments&force=true')).status, 202)
    await runUntilDeleted(tenant.id)
    assert.deepEqual(await tablesWithRows(tenant), [])
  })

  test('marks the project, revokes its keys, and terminates its instances in one transaction', async () => {
    await fill(tenant)
    const { status, body } = await remove(tenant.id)
    assert.deepEqual([status, body.status, body.id], [202, 'deleting', tenant.id])
    assert.equal(await statusOf(tenant.id), 'deleting')
    const { body: list } = await world.call('GET', '/v2/projects?limit=1')
    assert.equal(list.data[0].status, 'deleting')
    for (const call of [tenant.live, tenant.test]) {
      assert.equal((await call('GET', '/v2/instances')).status, 401)
      assert.equal((await call('POST', '/v2/instances', INSTANCE)).status, 401)
    }
    const environments = Object.values(tenant.environments)
    const [open] = await world.owner`
      select (select count(*) from api_keys where environment_id = any(${environments}) and revoked_at is null) as keys,
        (select count(*) from webhooks where environment_id = any(${environments}) and not wanted_gone) as webhooks,
        (select count(*) from instances where environment_id = any(${environments})
          and not (wanted_gone and status = 'terminating')) as instances`
    assert.deepEqual({ ...open }, { keys: 0, webhooks: 0, instances: 0 })
  })

  test('is idempotent, and no other change of the project is possible', async () => {
    assert.equal((await remove(tenant.id)).status, 202)
    const again = await remove(tenant.id)
    assert.deepEqual([again.status, again.body.status], [202, 'deleting'])
    const changed = await world.call('PATCH', `/v2/projects/${tenant.id}`, { name: 'other' })
    assert.deepEqual([changed.status, changed.body.current_status], [409, 'deleting'])
    const { body } = await world.call('GET', `/v2/audit_log?resource=${tenant.id}&action=deleteProject`)
    assert.deepEqual(
      body.data.map(({ outcome, before, after }: any) => [outcome, before.status, after.status]),
      [['done', 'active', 'deleting']],
    )
  })

  test('a request that runs at the same time and commits later is refused', async () => {
    const environment_id = tenant.environments.test
    const late = withOutbox(world.deps, { environment_id, mode: 'test' }, async (tx, outbox) => {
      await tx`insert into ssh_keys (environment_id, id, name, public_key, fingerprint, created_at)
        values (${environment_id}, 'ssh_0000000001', 'late', 'x', 'x', now())`
      assert.equal((await remove(tenant.id)).status, 202)
      const done = { key_id: 'key_1', action: 'createSshKey', resource: null, code: null, before: null, after: null }
      outbox.audit = ownEntry(world.deps, done)
    })
    await assert.rejects(late, (error) => error instanceof ApiError && error.code === 'invalid_api_key')
    const rows = await world.owner`select from ssh_keys where environment_id = ${environment_id}`
    assert.equal(rows.count, 0)
  })
})

describe('the deletion of a project', { timeout: 120_000 }, () => {
  test('removes everything in both environments, also with a frozen clock, and nothing of other projects', async () => {
    const [tenant, other] = [await project(), await project('other')]
    const { images } = await fill(tenant)
    await fill(other)
    await world.owner`
      update environments set clock_frozen_at = '2030-01-01' where id = ${tenant.environments.test}`
    const engine = await startEngine('before')
    const machines = () =>
      world.owner`select from simulated_machines where environment_id = any(${Object.values(tenant.environments)})`
    await until('the machines exist', async () => (await machines()).count === 4)
    await leaveDeletedImage(tenant)
    await engine.stop(5_000)
    const tables = await tablesWithRows(tenant)
    const untouched = await tablesWithRows(other)
    for (const table of ['events', 'requests', 'audit_log', 'budgets', 'idempotency_keys', 'webhook_deliveries']) {
      assert.ok(tables.includes(table), table)
    }
    assert.equal((await remove(tenant.id)).status, 202)
    await runUntilDeleted(tenant.id)
    assert.deepEqual(await tablesWithRows(tenant), [])
    for (const folder of ['images', 'imports']) assert.ok(!existsSync(join(data_dir, folder, images[0]!)), folder)
    assert.ok(!readdirSync(join(data_dir, 'uploads')).includes(`${images[0]}.part`))
    const left = await tablesWithRows(other)
    for (const table of untouched) assert.ok(left.includes(table), table)
    assert.equal((await other.test('GET', '/v2/instances')).body.data.length, 2)
    const { body } = await world.call('GET', `/v2/audit_log?resource=${tenant.id}&action=deleteProject`)
    assert.equal(body.data.length, 1, "the operator's audit log keeps the deletion")
    const work = await world.owner`select from work where kind = 'project' and id = ${tenant.id}`
    assert.equal(work.count, 0)
  })

  test('nothing that concurrent requests create survives, and none of them fails', async () => {
    const tenant = await project()
    await fill(tenant)
    const engine = await startEngine('meanwhile')
    const creates = [tenant.live, tenant.test].flatMap((call) =>
      Array.from({ length: 8 }, (_, i) => [
        () => call('POST', '/v2/instances', INSTANCE),
        () => call('POST', '/v2/webhooks', { url: 'https://hooks.test/', events: ['*'] }),
        () => call('POST', '/v2/api_keys', { name: 'k', scopes: ['keys:read'] }),
        () => call('POST', '/v2/subnets', { region: 'us-east-1', name: 's', cidr: `10.${20 + i}.0.0/24` }),
      ]).flat(),
    )
    const answers = creates.slice(0, 32).map((create) => create())
    const removed = remove(tenant.id)
    answers.push(...creates.slice(32).map((create) => create()))
    assert.equal((await removed).status, 202)
    for (const { status, body } of await Promise.all(answers)) {
      assert.ok([201, 401, 409].includes(status), `${status} ${JSON.stringify(body)}`)
    }
    await engine.stop(5_000)
    await runUntilDeleted(tenant.id)
    assert.deepEqual(await tablesWithRows(tenant), [])
  })

  test('continues after a restart, wherever the process ended', async () => {
    const tenant = await project()
    await fill(tenant)
    const environments = Object.values(tenant.environments)
    const rows = async (table: string) =>
      (await world.owner`select from ${world.owner(table)} where environment_id = any(${environments})`).count
    let engine = await startEngine('first')
    await until('machines exist', async () => (await rows('simulated_machines')) > 0)
    assert.equal((await remove(tenant.id)).status, 202)
    await engine.stop(0)
    for (const [worker, table] of [
      ['second', 'simulated_machines'],
      ['third', 'instances'],
      ['fourth', 'images'],
      ['fifth', 'events'],
    ] as const) {
      engine = await startEngine(worker)
      await until(`${table} are gone`, async () => {
        engine.nudge()
        return (await rows(table)) === 0
      })
      await engine.stop(0)
    }
    await runUntilDeleted(tenant.id)
    assert.deepEqual(await tablesWithRows(tenant), [])
  })

  test('terminates what a request created while the project was marked, and removes machines without an instance', async () => {
    const tenant = await project()
    await fill(tenant)
    const engine = await startEngine('before')
    const { body } = await tenant.test('GET', '/v2/instances')
    const [missed, gone] = body.data.map(({ id }: { id: string }) => id)
    const machines = () => world.owner`select from simulated_machines where id = any(${[missed, gone]})`
    await until('the machines exist', async () => (await machines()).count === 2)
    await engine.stop(5_000)
    assert.equal((await remove(tenant.id)).status, 202)
    await world.owner`update instances set wanted_gone = false, status = 'running' where id = ${missed}`
    await world.owner`update instances set status = 'terminated', terminated_at = now() where id = ${gone}`
    await runUntilDeleted(tenant.id)
    assert.equal((await machines()).count, 0)
    assert.deepEqual(await tablesWithRows(tenant), [])
  })

  test('fails visibly while a table that it does not know has rows, and continues afterwards', async () => {
    const tenant = await project()
    await world.owner`create table unknown_things (environment_id text)`
    await world.owner`select isolate_tenant_table('unknown_things')`
    await world.owner`insert into unknown_things values (${tenant.environments.live})`
    assert.equal((await remove(tenant.id)).status, 202)
    await age()
    const engine = await startEngine('failing')
    const failure = async () => {
      const [key] = await world.owner<{ last_error: string | null }[]>`
        select last_error from work where kind = 'project' and id = ${tenant.id}`
      return key!.last_error
    }
    await until('a pass has failed', failure)
    await engine.stop(5_000)
    assert.match((await failure())!, /unknown_things/)
    assert.equal(await statusOf(tenant.id), 'deleting')
    await world.owner`drop table unknown_things`
    await runUntilDeleted(tenant.id)
  })

  test('the functions that delete rows refuse a project that is not being deleted', async () => {
    const tenant = await project()
    await fill(tenant)
    const before = await tablesWithRows(tenant)
    const [purged] = await world.deps.sql`select purge_project(${tenant.id}, 100) as deleted`
    assert.equal(purged!.deleted, 0)
    const [finished] = await world.deps.sql`select finish_project_deletion(${tenant.id}) as remaining`
    assert.equal(finished!.remaining, 'instances')
    assert.deepEqual(await tablesWithRows(tenant), before)
    await assert.rejects(
      Promise.resolve(world.owner`delete from audit_log where environment_id = ${tenant.environments.live}`),
      /never changed/,
    )
  })

  test('a request that ends after the deletion leaves no row in the request log', async () => {
    const tenant = await project()
    assert.equal((await remove(tenant.id)).status, 202)
    await runUntilDeleted(tenant.id)
    const environment_id = tenant.environments.live
    const span = { environment_id, request_id: 'late', resource: 'inst_1', started_at: systemClock.now(), name: 'x' }
    world.deps.requests.span({
      ...span,
      kind: 'step',
      duration_ms: 1,
      status: 'ok',
      waits_for: null,
      detail: {},
    } as never)
    const request = {
      at: systemClock.now().getTime(),
      id: 'req_late',
      environment_id,
      request_id: 'late',
      key_id: null,
    }
    const sent = { method: 'GET', route: '/', resource: null, status: 200, code: null, duration_ms: 1, address: '::1' }
    const rest = { user_agent: null, aborted: false, sample_rate: 1, transactions: null }
    world.deps.requests.request({ ...request, ...sent, ...rest } as never, true)
    assert.deepEqual(await tablesWithRows(tenant), [])
  })
})
