/** The operator's search in the request logs of all projects. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Call, caller, createTestKey, type TestTenant } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { SCOPES, type Scope } from '../keys/scopes.ts'
import { until } from '../testing/until.ts'
import { listAnyRequests } from './any-project.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const NEWEST = { after: null, descending: true, limit: 100 }

let world: World
let tenant: TestTenant
let asTenant: Call
before(async () => {
  world = await createWorld()
  tenant = await world.tenant()
  asTenant = caller(world.app, tenant.test.key)
})
after(() => world?.stop())

const search = (query: string, call = world.call) => call('GET', `/v2/requests?project=any&${query}`)
const get = (id: string, call = world.call) => call('GET', `/v2/requests/${id}?project=any`)
/** Sends a request with this X-Request-ID. */
const send = (call: Call, id: string, url = '/v2/regions') => call('GET', url, undefined, { 'x-request-id': id })
const ownerOf = ({ project_id, environment }: any) => [project_id, environment]
const audited = async (request_id: string, call = world.call): Promise<any[]> =>
  (await call('GET', `/v2/audit_log?request_id=${request_id}`)).body.data

describe('requests of any project', { timeout: 60_000 }, () => {
  test('the list finds a request of a tenant by its X-Request-ID, with its project and environment', async () => {
    await send(asTenant, 'ticket-1')
    for (const call of [world.call, world.callTest]) {
      const { status, body } = await search('request_id=ticket-1', call)
      assert.equal(status, 200, JSON.stringify(body))
      const [row, ...others] = body.data
      assert.deepEqual([row.request_id, row.key_id, others], ['ticket-1', tenant.test.principal.key_id, []])
      assert.deepEqual(ownerOf(row), [tenant.test.principal.project_id, 'test'])
    }
    assert.deepEqual((await world.call('GET', '/v2/requests?request_id=ticket-1')).body.data, [])
  })

  test('combines with the other filters, and pages through all projects in the order of time', async () => {
    const other = caller(world.app, (await world.tenant()).live.key)
    const calls = [asTenant, other, world.call, other, asTenant]
    for (const call of calls) await send(call, 'ticket-2')
    await send(other, 'ticket-2', '/v2/instances/inst_0000000000')
    const { body: failed } = await search('request_id=ticket-2&status=4xx')
    assert.deepEqual([failed.data.length, failed.data[0].code], [1, 'not_found'])
    assert.deepEqual((await search('request_id=ticket-2&method=POST')).body.data, [])
    const key = `key=${tenant.test.principal.key_id}`
    assert.equal((await search(`request_id=ticket-2&${key}`)).body.data.length, 2)
    const seen: any[] = []
    for (let cursor = ''; ; ) {
      const { body } = await search(`request_id=ticket-2&status=2xx&limit=2&sort=created_at${cursor}`)
      seen.push(...body.data)
      if (!body.pagination.has_more) break
      cursor = `&cursor=${body.pagination.next_cursor}`
    }
    assert.equal(new Set(seen.map(({ id }) => id)).size, calls.length)
    const times = seen.map(({ created_at }) => created_at)
    assert.deepEqual(times, times.toSorted())
  })

  test('one request has its trace, also while others have the same X-Request-ID', async () => {
    await send(world.call, 'ticket-3')
    const { body: instance } = await asTenant('POST', '/v2/instances', BODY, { 'x-request-id': 'ticket-3' })
    const names = async () => (await get('ticket-3')).body.spans.map((span: any) => span.name)
    await until('the trace has a step', async () => (await names()).includes('create'))
    const { body } = await get('ticket-3')
    assert.deepEqual([body.resource, ...ownerOf(body)], [instance.id, tenant.test.principal.project_id, 'test'])
    assert.ok((await names()).includes('instance.created'))
    assert.deepEqual(body.others.map(ownerOf), [[world.live.principal.project_id, 'live']])
    const { spans: _, ...byId } = (await get(body.id)).body
    const { spans: __, ...byRequestId } = body
    assert.deepEqual(byId, byRequestId)
    const [other] = body.others
    assert.deepEqual(
      (await get(other.id)).body.others.map(({ id }: any) => id),
      [body.id],
    )
  })

  test('finds a request without a valid key, which belongs to no project', async () => {
    await asTenant('GET', '/v2/regions', undefined, { authorization: 'Bearer wrong', 'x-request-id': 'ticket-4' })
    const { body } = await search('request_id=ticket-4')
    assert.deepEqual(
      body.data.map((row: any) => [row.status, row.key_id, ...ownerOf(row)]),
      [[401, null, null, null]],
    )
    const { body: found } = await get('ticket-4')
    assert.deepEqual([found.id, found.others, ...ownerOf(found)], [body.data[0].id, [], null, null])
    assert.deepEqual(
      found.spans.map((span: any) => span.kind),
      ['call'],
    )
  })

  test('returns 404 for a request that no project has', async () => {
    for (const id of ['ticket-none', 'req_zzzzzzzzzzzzzzzzzzzz']) {
      const { status, body } = await get(id)
      assert.deepEqual([status, body.code], [404, 'not_found'])
      assert.match(body.detail, /in any project/)
    }
  })

  test('requires the scopes requests:read and admin, and a key of the first project', async () => {
    const keyOf = async ({ principal }: TestTenant['live'], scopes: readonly Scope[]) =>
      caller(world.app, (await createTestKey(world.deps, principal, scopes)).key)
    const without = (scope: Scope) => SCOPES.filter((each) => each !== scope)
    await send(asTenant, 'ticket-5')
    for (const [call, required, detail] of [
      [await keyOf(world.live, without('admin')), 'admin', /does not have that scope/],
      [await keyOf(world.live, without('requests:read')), 'requests:read', /requests:read/],
      [await keyOf(tenant.live, SCOPES), undefined, /belongs to another project/],
      [asTenant, 'admin', /first project/],
    ] as const) {
      for (const { status, body } of [await search('request_id=ticket-5', call), await get('ticket-5', call)]) {
        assert.deepEqual([status, body.code, body.required_scope], [403, 'insufficient_scope', required])
        assert.match(body.detail, detail)
      }
    }
    assert.equal((await search('', await keyOf(world.test, ['requests:read', 'admin']))).status, 200)
  })

  test('accepts no other project', async () => {
    const id = tenant.test.principal.project_id
    for (const url of [
      `/v2/requests?project=${id}`,
      '/v2/requests/x?project=',
      '/v2/requests?project=any&project=any',
    ]) {
      const { status, body } = await world.call('GET', url)
      assert.deepEqual([status, body.errors[0].parameter.split('/')[0]], [400, 'project'], url)
    }
  })

  test('every search is in the audit log of its key, with what was searched for', async () => {
    await send(asTenant, 'ticket-6')
    const headers = { 'x-request-id': 'search-1' }
    const query = 'project=any&request_id=ticket-6&status=2xx&limit=5&sort=created_at'
    const { body: list } = await world.call('GET', `/v2/requests?${query}`, undefined, headers)
    const found = list.data[0].id
    await world.call('GET', '/v2/requests/ticket-6?project=any', undefined, headers)
    await world.call('GET', '/v2/requests/ticket-none?project=any', undefined, headers)
    const entries = await audited('search-1')
    assert.deepEqual(
      entries.map(({ action, resource, outcome, status, code, before, after }) => [
        ...[action, resource, outcome, status, code, before, after],
      ]),
      [
        ['getRequest', null, 'refused', 404, 'not_found', null, { project: 'any', id: 'ticket-none' }],
        ['getRequest', found, 'done', 200, null, null, { project: 'any', id: 'ticket-6' }],
        ['listRequests', null, 'done', 200, null, null, { project: 'any', request_id: 'ticket-6', status: '2xx' }],
      ],
    )
    for (const entry of entries) assert.equal(entry.key_id, world.live.principal.key_id)
    assert.deepEqual(await audited('search-1', asTenant), [])
  })

  test('a search that cannot be recorded returns nothing', async () => {
    await send(asTenant, 'ticket-7')
    await world.owner`create function refuse_entry() returns trigger language plpgsql as $$ begin raise 'no'; end $$`
    await world.owner`create trigger refuse_entry before insert on audit_log for each row execute function refuse_entry()`
    try {
      for (const { status, body } of [await search('request_id=ticket-7'), await get('ticket-7')]) {
        assert.deepEqual([status, body.code], [500, 'internal_error'])
      }
    } finally {
      await world.owner`drop function refuse_entry cascade`
    }
    assert.equal((await search('request_id=ticket-7')).status, 200)
  })

  test('without project=any, requests are shown as before and not audited', async () => {
    await send(world.call, 'ticket-8')
    const headers = { 'x-request-id': 'search-2' }
    const { body: list } = await world.call('GET', '/v2/requests?request_id=ticket-8', undefined, headers)
    const { body: one } = await world.call('GET', '/v2/requests/ticket-8', undefined, headers)
    for (const row of [list.data[0], one]) assert.ok(!('project_id' in row) && !('environment' in row))
    assert.deepEqual(await audited('search-2'), [])
  })
})

describe('row-level security', () => {
  const visible = (environment_id: string, setting: string | null) =>
    world.deps.sql.as(environment_id).begin(async (tx) => {
      if (setting !== null) await tx`select set_config('cloudnexus.all_projects', ${setting}, true)`
      const rows = await tx<{ id: string | null }[]>`select distinct environment_id as id from requests`
      return Array.from(rows, ({ id }) => id).sort()
    })

  test('admits the rows of other projects to the operator only, and only in a transaction that asks for them', async () => {
    await send(asTenant, 'ticket-9')
    await send(world.call, 'ticket-9')
    await search('request_id=ticket-9')
    const [operator, other] = [world.live.principal.environment_id, tenant.test.principal.environment_id]
    assert.deepEqual(await visible(operator, null), [operator])
    assert.deepEqual(await visible(operator, 'off'), [operator])
    const all = await visible(operator, 'on')
    assert.ok(all.includes(operator) && all.includes(other))
    assert.deepEqual(await visible(operator, null), [operator], 'the setting ends with its transaction')
    assert.deepEqual(await visible(other, 'on'), [other])
    assert.equal((await listAnyRequests(world.deps.sql.as(other), {}, NEWEST)).length, 0)
  })

  test('a search by X-Request-ID uses the index of each environment', async () => {
    const plan = await world.deps.sql.as(world.live.principal.environment_id).begin(async (tx) => {
      await tx`set local enable_seqscan = off`
      await tx`select set_config('cloudnexus.all_projects', 'on', true)`
      return tx`
        explain select r.* from all_environments() e cross join lateral (
          select * from requests where environment_id = e.id and request_id = 'x' order by ordinal desc limit 21) r`
    })
    assert.match(JSON.stringify(plan), /Index Cond: \(\(environment_id = e\.id\) AND \(request_id = /)
  })
})
