/** Row-level security of every table, read from the system catalogs of the migrated database. */
import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import type { Sql } from './database.ts'
import { createTestDatabase } from './testing.ts'

let owner: Sql
let sql: Sql
before(async () => {
  ;({ owner, sql } = await createTestDatabase())
})

/** A partition without privileges of its own can only be accessed through its parent. */
const faults = () => owner<{ name: string; fault: string }[]>`
  select c.relname as name, fault from pg_class c, lateral (values
    (not c.relrowsecurity, 'has no row-level security'),
    (not c.relforcerowsecurity, 'does not force it'),
    (not exists (select from pg_policy p where p.polrelid = c.oid), 'has no policy'),
    (not exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'installation'), 'lacks the policy of isolate_table'),
    (exists (select from pg_policy p, unnest(p.polroles) r where p.polrelid = c.oid and r = 0), 'has a policy for PUBLIC'),
    (exists (select from pg_policy p where p.polrelid = c.oid and 'cn_app'::regrole = any(p.polroles)
      and coalesce(pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid)) not like '%current_environment_id()%'),
      'has a policy that does not depend on the bound environment'),
    (exists (select from aclexplode(c.relacl) a where a.grantee = 0), 'grants privileges to PUBLIC'),
    (pg_has_role('cn_app', c.relowner, 'member') or pg_has_role('cn_engine', c.relowner, 'member'), 'is owned by a role in cn_app or cn_engine'),
    (has_table_privilege('cn_app', c.oid, 'truncate, references, trigger')
      or has_table_privilege('cn_engine', c.oid, 'truncate, references, trigger'), 'grants more than access to rows')
  ) as found(is_so, fault)
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f', 'm', 'v') and is_so
    and not (c.relispartition and not exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner))
  order by 1, 2`

describe('row-level security', () => {
  test('is enabled and forced on every table, with policies', async () => {
    assert.deepEqual([...(await faults())], [])
    const [tables] = await owner<{ count: number }[]>`select count(*) from pg_tables where schemaname = 'public'`
    assert.ok(tables!.count >= 14)
  })

  test('is reported when a table lacks it', async () => {
    await owner`create table forgotten (environment_id text)`
    const found = (await faults()).map(({ fault }) => fault)
    assert.ok(found.includes('has no row-level security') && found.includes('has no policy'), String(found))
    await owner`select isolate_tenant_table('forgotten')`
    assert.deepEqual([...(await faults())], [])
    await owner`grant truncate on forgotten to cn_app`
    assert.deepEqual(
      (await faults()).map(({ fault }) => fault),
      ['grants more than access to rows'],
    )
    await owner`drop table forgotten`
    await owner`create table unowned (id text)`
    await assert.rejects(Promise.resolve(owner`select isolate_tenant_table('unowned')`), /neither/)
    await owner`drop table unowned`
  })

  test('limits a table with project_id to the project of the environment', async () => {
    await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now()), ('proj_2', 'q', now())`
    await owner`insert into environments (id, project_id, mode)
      values ('env_1', 'proj_1', 'live'), ('env_2', 'proj_1', 'test'), ('env_3', 'proj_2', 'live')`
    await owner`create table quotas (project_id text, n integer)`
    await owner`select isolate_tenant_table('quotas', app => 'select', engine => 'select')`
    await owner`insert into quotas values ('proj_1', 1), ('proj_2', 2)`
    const seen = async (id: string) => (await sql.as(id)<{ n: number }[]>`select n from quotas`).map(({ n }) => n)
    assert.deepEqual([await seen('env_1'), await seen('env_2'), await seen('env_3')], [[1], [1], [2]])
    assert.equal((await sql`select from quotas`).count, 2)
    await assert.rejects(Promise.resolve(sql.as('env_1')`delete from quotas`), /permission denied/)
    const projects = async (id: string) =>
      (await sql.as(id)<{ id: string }[]>`select id from projects order by ordinal`).map((project) => project.id)
    assert.deepEqual(await projects('env_3'), ['proj_2'])
    assert.deepEqual(await projects('env_1'), ['proj_1', 'proj_2'], "the operator's project reads the others")
    for (const statement of [
      sql.as('env_3')`insert into projects (id, name, created_at) values ('proj_3', 'r', now())`,
      sql.as('env_1')`insert into environments (id, project_id, mode) values ('env_4', 'proj_2', 'test')`,
    ]) {
      await assert.rejects(Promise.resolve(statement), { code: '42501' })
    }
    assert.equal((await sql.as('env_3')`update projects set name = 'mine' where id = 'proj_1'`).count, 0)
  })

  test('security definer functions have a fixed search_path, and PUBLIC cannot execute them', async () => {
    const rows = await owner<{ name: string; is_fixed: boolean; is_public: boolean }[]>`
      select p.proname as name, coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false) as is_fixed,
        exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0) as is_public
      from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosecdef`
    assert.ok(rows.length >= 5)
    assert.deepEqual(
      rows.filter((row) => !row.is_fixed || row.is_public),
      [],
    )
  })

  test('neither role owns objects, bypasses policies, or can create objects', async () => {
    for (const connection of [sql, sql.as('env_1')]) {
      const [role] = await connection`
        select rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication as can,
          exists (select from pg_shdepend d where d.refobjid = pg_roles.oid and d.deptype = 'o') as owns,
          has_schema_privilege('public', 'create') as makes
        from pg_roles where rolname = current_user`
      assert.deepEqual({ ...role }, { can: false, owns: false, makes: false })
      await assert.rejects(Promise.resolve(connection`select * from migrations`), /permission denied/)
      await assert.rejects(
        Promise.resolve(connection`alter table instances disable row level security`),
        /must be owner/,
      )
      await assert.rejects(Promise.resolve(connection`select isolate_table('instances')`), /permission denied/)
    }
    await assert.rejects(Promise.resolve(sql`select * from ssh_keys`), /permission denied/)
    await assert.rejects(Promise.resolve(sql`select * from instances`), /permission denied/)
    await assert.rejects(Promise.resolve(sql`update instances set name = 'x'`), /permission denied/)
  })

  test('uses the condition of a policy as an index condition', async () => {
    const plan = await sql.as('env_1').begin(async (tx) => {
      await tx`set local enable_seqscan = off`
      return tx`explain select * from instances where status <> 'terminated' order by ordinal desc limit 20`
    })
    assert.match(JSON.stringify(plan), /Index Cond: \(environment_id = current_setting/)
  })
})
