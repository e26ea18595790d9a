/** Two tenants on one control plane: each reads and writes only its own rows, by the queries and by row-level security alone. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { removeQuotas } from '../http/testing.ts'
import { seededRandom } from '../lib/random.ts'
import { createWorld, type World } from './testing-world.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const REQUESTS = 1_000
const CONCURRENCY = 40

type Tenant = { name: string; key: string; environment_id: string; sql: Sql; ids: Set<string> }
let world: World
let origin: string
let tenants: [Tenant, Tenant]
before(async () => {
  world = await createWorld()
  origin = await world.app.listen({ port: 0, host: '127.0.0.1' })
  const other = await world.tenant()
  await removeQuotas(world.owner, other.test.principal.project_id)
  const of = (name: string, { key, principal }: World['test']): Tenant => {
    const { environment_id } = principal
    return { name, key, environment_id, sql: world.deps.sql.as(environment_id), ids: new Set() }
  }
  tenants = [of('alpha', world.test), of('bravo', other.test)]
})
after(() => world?.stop())

/** One request over a socket; null when its client aborted it. */
async function send(tenant: Tenant, method: string, path: string, body?: unknown, abortAfterMs?: number) {
  const signal = abortAfterMs === undefined ? null : AbortSignal.timeout(abortAfterMs)
  const headers = { authorization: `Bearer ${tenant.key}`, 'content-type': 'application/json' }
  try {
    const response = await fetch(`${origin}${path}`, {
      method,
      headers,
      signal,
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return { status: response.status, text: await response.text() }
  } catch (error) {
    if (signal?.aborted) return null
    throw error
  }
}

const random = seededRandom(11)
const pick = <T>(from: Iterable<T>): T => {
  const all = [...from]
  return all[random.integer(all.length)]!
}
let counter = 0

/** A random request, valid or not, about resources of the tenant or of the other tenant. */
async function act(mine: Tenant, theirs: Tenant): Promise<void> {
  const name = `${mine.name}-${counter++}`
  const own = mine.ids.size > 0 ? pick(mine.ids) : 'inst_0000000000'
  const foreign = theirs.ids.size > 0 ? pick(theirs.ids) : 'inst_0000000000'
  const path = (id: string) => `/v2/instances/${id}`
  const create = (more: object = {}) => ({ ...BODY, name, tags: { owner: mine.name }, ...more })
  const [response, expected] = await pick<() => Promise<[Awaited<ReturnType<typeof send>>, number[]]>>([
    async () => [await send(mine, 'POST', '/v2/instances', create({ network: { assign_public_ip: true } })), [201]],
    async () => [await send(mine, 'POST', '/v2/instances', create({ image: 'unheard-of', ssh_keys: ['x'] })), [422]],
    async () => [await send(mine, 'POST', '/v2/instances', create(), random.integer(4)), [201]],
    async () => [await send(mine, 'GET', '/v2/instances?limit=100'), [200]],
    async () => [await send(mine, 'GET', '/v2/instances?limit=100&tag=owner:alpha'), [200]],
    async () => [await send(mine, 'GET', '/v2/subnets'), [200]],
    async () => [await send(mine, 'GET', '/v2/images'), [200]],
    async () => [await send(mine, 'GET', path(own)), [200, 404]],
    async () => [await send(mine, 'PATCH', path(own), { tags: { owner: mine.name, n: name } }), [200, 404, 409]],
    async () => [await send(mine, 'DELETE', path(own)), [202, 404]],
    async () => [await send(mine, 'PATCH', path(own), { plan: 'standard-4x', name: 'half-done' }), [404, 409, 200]],
    async () => [await send(mine, 'GET', path(foreign)), [404]],
    async () => [await send(mine, 'PATCH', path(foreign), { name }), [404]],
    async () => [await send(mine, 'DELETE', path(foreign)), [404]],
    async () => [await send(mine, 'POST', `${path(foreign)}/actions/rebuild`, {}), [404]],
    async () => [
      await send(mine, 'POST', '/v2/subnets', { region: 'us-east-1', name, cidr: '10.200.0.0/24' }),
      [201, 409],
    ],
    async () => [
      await send(mine, 'POST', '/v2/images', { name: 'golden', source: 'upload', description: name }),
      [201, 409],
    ],
  ])()
  if (!response) return
  assert.ok(expected.includes(response.status), `${response.status} ${response.text}`)
  assert.ok(!response.text.includes(`${theirs.name}-`), `${mine.name} reads ${response.text}`)
  assert.ok(!response.text.includes(`"owner":"${theirs.name}"`), `${mine.name} reads ${response.text}`)
  if (response.status >= 400) return
  for (const id of theirs.ids) assert.ok(!response.text.includes(id), `${mine.name} reads ${id}`)
  for (const [id] of response.text.matchAll(/inst_[0-9a-z]{10}/g)) mine.ids.add(id)
}

describe('two tenants', { timeout: 240_000 }, () => {
  test('1,000 interleaved requests, with errors and aborted requests, never return a row of the other tenant', async () => {
    let left = REQUESTS
    const client = async (number: number) => {
      const [mine, theirs] = number % 2 === 0 ? tenants : ([tenants[1], tenants[0]] as const)
      while (left-- > 0) await act(mine, theirs)
    }
    await Promise.all(Array.from({ length: CONCURRENCY }, (_, number) => client(number)))
    const [alpha, bravo] = tenants
    assert.ok(alpha.ids.size > 20 && bravo.ids.size > 20)
    assert.deepEqual(
      [...alpha.ids].filter((id) => bravo.ids.has(id)),
      [],
    )
    for (const { name, environment_id, ids } of tenants) {
      const rows = await world.owner<{ name: string }[]>`
        select name from instances where environment_id = ${environment_id} and name <> 'half-done'
        union all select data #>> '{object,tags,owner}' || '-' from events where environment_id = ${environment_id}
        union all select description from images where environment_id = ${environment_id}`
      assert.ok(rows.length >= ids.size, `${name} has the created event of each of its instances`)
      for (const row of rows) assert.ok(row.name.startsWith(`${name}-`), row.name)
    }
    const [mixed] = await world.owner<{ count: number }[]>`
      select count(*) from instances i join (
        select id, environment_id from work where kind = 'instance'
        union all select instance_id, environment_id from addresses
        union all select resource_id, environment_id from events
        union all select id, environment_id from simulated_machines
      ) of_it on of_it.id = i.id and of_it.environment_id <> i.environment_id`
    assert.equal(mixed!.count, 0)
    // No connection of a tenant's role is left in a transaction.
    for (;;) {
      const open = await world.owner`
        select state from pg_stat_activity
        where datname = current_database() and usename = 'cn_app_test' and state like 'idle in transaction%'`
      if (open.count === 0) break
    }
  })

  test('row-level security alone: reads return own rows, changes match none, inserts fail', async () => {
    const [{ sql, environment_id }, other] = tenants
    const tables = await world.owner<{ name: string }[]>`
      select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'environment_id'
        and has_table_privilege('cn_app', c.oid, 'select')`
    assert.ok(tables.length >= 14)
    for (const { name } of tables) {
      const all = await world.owner<{ environment_id: string }[]>`select distinct environment_id from ${sql(name)}`
      const rows = await sql<{ environment_id: string | null }[]>`select environment_id from ${sql(name)}`
      const foreign = rows.filter((row) => row.environment_id !== environment_id && row.environment_id !== null)
      assert.deepEqual(foreign, [], name)
      if (all.some((row) => row.environment_id === environment_id)) assert.ok(rows.length > 0, name)
    }
    const foreign = pick(other.ids)
    const before = await world.owner`select * from instances where id = ${foreign}`
    assert.equal((await sql`update instances set name = 'mine' where id = ${foreign}`).count, 0)
    assert.equal((await sql`delete from instances where id = ${foreign}`).count, 0)
    assert.equal((await sql`select * from instances where id = ${foreign} for update`).count, 0)
    assert.equal((await sql`delete from addresses where instance_id = ${foreign}`).count, 0)
    assert.equal((await sql`update work set due_at = 'infinity' where id = ${foreign}`).count, 0)
    await sql`insert into ssh_keys (environment_id, id, name, public_key, fingerprint, created_at)
      values (${environment_id}, 'ssh_0000000001', 'x', 'x', 'x', now())`
    const refused = [
      sql`insert into work (kind, id, environment_id, due_at) values ('x', 'x', ${other.environment_id}, now())`,
      sql`insert into ssh_keys (environment_id, id, name, public_key, fingerprint, created_at)
        values (${other.environment_id}, 'ssh_0000000001', 'x', 'x', 'x', now())`,
      sql`insert into work (kind, id, environment_id, due_at) values ('instance', ${foreign}, ${environment_id}, now())
        on conflict (kind, id) do update set due_at = 'infinity'`,
      sql`update ssh_keys set environment_id = ${other.environment_id}`,
      sql`update instances set environment_id = ${other.environment_id}`,
      sql`update images set environment_id = ${environment_id} where environment_id is null`,
      sql`update images set wanted_gone = true where environment_id is null`,
      sql`update images set source = '{}'`,
      sql`update events set type = 'x'`,
      sql`delete from events`,
      sql`update environments set clock_offset = '1 day'`,
    ]
    for (const statement of refused) await assert.rejects(Promise.resolve(statement), { code: '42501' })
    const pool = (id: string) => sql`select free_address(${`subnet:${id}:sub_8f7e6d5c4b`}, 2) as address`
    assert.equal((await pool(other.environment_id))[0]!.address, null)
    assert.notEqual((await pool(environment_id))[0]!.address, null)
    assert.equal((await sql`delete from images where environment_id is null`).count, 0)
    assert.deepEqual([...(await world.owner`select * from instances where id = ${foreign}`)], [...before])
  })
})
