/** The upgrade of a database of an earlier release, with rows in it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect } from './database.ts'
import { EARLIER_DIGESTS, migrate, migrationFiles } from './migrate.ts'
import { createTestDatabase } from './testing.ts'

const { owner, url } = await createTestDatabase({ max: 2 })
const [first] = migrationFiles()
// Several runs can share a server.
const name = `upgrade_${process.pid}`
await owner.unsafe(`create database ${name}`)
const old = connect({ url: url.replace(/\/[^/?]*(\?|$)/, `/${name}$1`), max: 2, name: 'test-upgrade' })

test('an upgrade from 0.1.0 assigns pools and addresses to their environments, and releases unused addresses', async (t) => {
  t.after(async () => {
    await old.end()
    await owner.unsafe(`drop database ${name} with (force)`)
  })
  await old.unsafe(`create table migrations (
    number integer primary key, name text not null, digest text not null, applied_at timestamptz not null default now());
    ${first!.text}; insert into migrations (number, name, digest) values (1, '${first!.name}', '${EARLIER_DIGESTS[0]}')`)
  await old.unsafe(`
    insert into projects (id, name, created_at) values ('proj_1', 'p', now()), ('proj_2', 'q', now());
    insert into environments (id, project_id, mode)
      values ('env_l', 'proj_1', 'live'), ('env_t', 'proj_1', 'test'), ('env_o', 'proj_2', 'test');
    insert into address_pools (id, range) values ('public:live:us-east-1', '127.90.1.0/24'),
      ('public:env_t', '198.18.0.0/15'), ('subnet:env_l:sub_1', '10.77.0.0/16');
    insert into subnets (environment_id, id, region, name, range, pool_id, created_at)
      values ('env_l', 'sub_1', 'us-east-1', 'd', '10.77.0.0/16', 'subnet:env_l:sub_1', now());
    insert into images (id, name, description, source, ready_signal, ssh_user, created_at)
      values ('img_1', 'x', '', '{}', 'guest', 'root', now());
    insert into instances (id, environment_id, mode, region, name, hostname, image, image_id, subnet_id, private_ip, mac,
      ports, ssh_public_keys, ssh_user, tags, auto_recovery, termination_protection, ready_timeout_seconds, created_at,
      updated_at, wanted_power, wanted_run, wanted_disk, wanted_plan, wanted_vcpus, wanted_memory_bytes,
      wanted_disk_bytes, wanted_activity, wanted_at, status)
    values ('inst_1', 'env_l', 'live', 'us-east-1', 'x', 'x', 'x', 'img_1', 'sub_1', '10.77.0.2', '02:00:00:00:00:01',
      '{22}', '{}', 'root', '{}', true, false, 300, now(), now(), 'running', 1, 1, 'x', 1, 1, 1, 'provisioning', now(), 'running');
    insert into addresses values ('subnet:env_l:sub_1', '10.77.0.2', 'inst_1'), ('public:live:us-east-1', '127.90.1.2', 'inst_1'),
      ('public:live:us-east-1', '127.90.1.3', 'inst_gone')`)
  assert.equal(await migrate(old), migrationFiles().length - 1)
  const pools = await old<{ id: string; environment_id: string | null }[]>`
    select id, environment_id from address_pools order by id`
  assert.deepEqual(
    pools.map(({ id, environment_id }) => [id, environment_id]),
    [
      ['public:env_t', 'env_t'],
      ['public:live:us-east-1', null],
      ['subnet:env_l:sub_1', 'env_l'],
    ],
  )
  const held = await old<{ address: string; environment_id: string }[]>`
    select address, environment_id from addresses order by address`
  assert.deepEqual(
    held.map(({ address, environment_id }) => [address, environment_id]),
    [
      ['10.77.0.2', 'env_l'],
      ['127.90.1.2', 'env_l'],
    ],
  )
  const withoutDefaultQuotas = await old`select environment_id from environment_heads where of_operator order by 1`
  assert.deepEqual(
    withoutDefaultQuotas.map(({ environment_id }) => environment_id),
    ['env_l', 'env_t'],
  )

  assert.equal(await migrate(old), 0)
  await old`update migrations set digest = 'x' where number = 2`
  await assert.rejects(migrate(old), /0002_tenants.sql was changed/)
})
