/** Creating many instances at once: all or none, with one statement per table. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Transaction } from '../db/database.ts'
import { createQuery } from '../db/sql.ts'
import { withOutbox } from '../events/outbox.ts'
import { CapacityExhausted, QuotaExceeded } from '../lib/insufficient-capacity.ts'
import { insertInstances, type Origin } from './create.ts'
import { resolveCreate } from './resolve.ts'
import type { InstanceRow } from './row.ts'
import { load } from './store.ts'
import { createWorld, type World } from './testing-world.ts'

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', network: { assign_public_ip: true } }

let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())

const origin = (): Origin => ({ ...world.test.principal, deployment_id: null, request_id: 'req_many' })

/** Creates `count` instances in one transaction. Returns them, and how many statements the transaction took. */
async function create(count: number, body: typeof BODY = BODY): Promise<{ rows: InstanceRow[]; statements: number }> {
  let statements = 0
  const counting = (tx: Transaction): Transaction => {
    const query = createQuery(({ text, values }) => {
      statements++
      return tx.unsafe<object[]>(text, values)
    })
    return Object.assign(query, { transaction: true as const, commitWith: tx.commitWith })
  }
  const { deps, test } = world
  const rows = await withOutbox(deps, test.principal, async (tx, outbox) => {
    const spec = await resolveCreate(tx, deps, test.principal.environment_id, body)
    const specs = Array.from({ length: count }, () => spec)
    return insertInstances(counting(tx), { ...deps, outbox }, specs, origin())
  })
  return { rows, statements }
}

describe('insertInstances', () => {
  test('creates 200 instances with as many statements as it takes for one', async () => {
    const one = await create(1)
    const many = await create(200)
    // A set locks the pool of its private and of its public addresses.
    assert.ok(many.statements <= one.statements + 2, `${many.statements} statements instead of ${one.statements}`)
    const addresses = many.rows.flatMap(({ private_ip, wanted_public_ip }) => [private_ip, wanted_public_ip])
    assert.equal(new Set(addresses).size, 400)
    const ids = many.rows.map(({ id }) => id)
    const emitted = await world.owner`
      select resource_id from events where type = 'instance.created' and resource_id = any(${ids}) order by sequence`
    assert.deepEqual(
      emitted.map(({ resource_id }) => resource_id),
      ids,
    )
    assert.equal((await world.owner`select from work where kind = 'instance' and id = any(${ids})`).count, 200)
  })

  test('stores the rows that it returns', async () => {
    const { rows } = await create(3)
    for (const row of rows) {
      const stored = (await load(world.deps.sql.as(row.environment_id), row.id))!
      const { observed_ports, version, ...rest } = stored
      assert.deepEqual({ observed_ports, wanted: rest.wanted_plan }, { observed_ports: [], wanted: 'micro-1x' })
      assert.deepEqual(
        [rest.private_ip, rest.ordinal, rest.tags, rest.created_at, rest.ports],
        [row.private_ip, row.ordinal, row.tags, row.created_at, row.ports],
      )
    }
  })

  test('creates nothing when the quota, or the pool of public addresses, has fewer', async () => {
    const count = async () => (await world.owner`select from instances`).count
    const before = await count()
    const { quotas } = world.deps.config
    const limited = { ...world.deps.config, quotas: { ...quotas, test: { instances: before + 5 } } }
    const { deps, test } = world
    const attempt = withOutbox({ ...deps, config: limited }, test.principal, async (tx, outbox) => {
      const spec = await resolveCreate(tx, deps, test.principal.environment_id, BODY)
      return insertInstances(
        tx,
        { ...deps, outbox },
        Array.from({ length: 6 }, () => spec),
        origin(),
      )
    })
    await assert.rejects(attempt, QuotaExceeded)
    await world.owner`update address_pools set range = '198.18.0.0/29' where id = ${`public:${test.principal.environment_id}`}`
    await assert.rejects(create(6), CapacityExhausted)
    assert.equal(await count(), before)
  })
})
