import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { newKey } from '../keys/format.ts'
import { createKeyLookup } from '../keys/lookup.ts'
import { systemClock } from '../lib/clock.ts'
import { systemRandom } from '../lib/random.ts'
import { type FirstProject, openFirstProject } from './first-project.ts'

const project: FirstProject = {
  region: 'us-east-1',
  public_addresses: '127.71.50.0/24',
  keys: { live: newKey('live', systemRandom), test: newKey('test', systemRandom) },
  pepper: new Uint8Array(32),
  ssh_public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f cloudnexus',
}

describe('the first project', () => {
  let sql: Sql
  let owner: Sql
  before(async () => {
    ;({ sql, owner } = await createTestDatabase())
  })
  const everything = () => owner`
    select (select jsonb_agg(p order by id) from projects p) as projects,
      (select jsonb_agg(e order by id) from environments e) as environments,
      (select jsonb_agg(s order by environment_id) from subnets s) as subnets,
      (select jsonb_agg(a order by id) from address_pools a) as pools,
      (select jsonb_agg(k.digest order by id) from api_keys k) as keys,
      (select jsonb_agg(s order by environment_id) from ssh_keys s) as ssh_keys`

  test('is created once, also by concurrent starts', async () => {
    await Promise.all([1, 2, 3].map(() => openFirstProject(owner, systemRandom, project)))
    const first = await everything()
    await openFirstProject(owner, systemRandom, project)
    assert.deepEqual(await everything(), first)
    const subnets = await owner<{ mode: string; id: string; range: string; has_segment: boolean }[]>`
      select e.mode, s.id, s.range::text, s.segment is not null as has_segment
      from subnets s join environments e on e.id = s.environment_id order by e.mode`
    assert.deepEqual(
      [...subnets],
      [
        { mode: 'live', id: 'sub_8f7e6d5c4b', range: '10.77.0.0/16', has_segment: true },
        { mode: 'test', id: 'sub_8f7e6d5c4b', range: '10.64.0.0/10', has_segment: false },
      ],
    )
  })

  test('has working keys, and a revoked key stays revoked', async () => {
    const keys = createKeyLookup({ sql, clock: systemClock, pepper: project.pepper })
    assert.equal((await keys.find(project.keys.live))?.mode, 'live')
    assert.equal((await keys.find(project.keys.test))?.mode, 'test')
    await owner`update api_keys set revoked_at = now() - interval '1 minute'`
    await openFirstProject(owner, systemRandom, project)
    const fresh = createKeyLookup({ sql, clock: systemClock, pepper: project.pepper })
    assert.equal(await fresh.find(project.keys.live), null)
  })

  test('a changed range replaces the old one and keeps reserved addresses', async () => {
    await owner`insert into addresses (pool_id, address, instance_id, environment_id)
      select 'public:live:us-east-1', '127.71.50.9', 'inst_a', id from environments where mode = 'live'`
    await openFirstProject(owner, systemRandom, { ...project, public_addresses: '203.0.113.0/28' })
    const [pool] = await owner`select range::text from address_pools where id = 'public:live:us-east-1'`
    assert.equal(pool!.range, '203.0.113.0/28')
    assert.equal((await owner`select from addresses`).count, 1)
  })

  test('a renamed region gets its own default subnet', async () => {
    await openFirstProject(owner, systemRandom, { ...project, region: 'home' })
    const rows = await owner<{ id: string }[]>`select id from subnets where region = 'home'`
    assert.equal(rows.length, 2)
    assert.ok(rows.every((row) => row.id !== 'sub_8f7e6d5c4b'))
  })
})
