-- Row-level security keeps tenants apart, also where a statement lacks its `where environment_id = …`. There are three
-- kinds of roles:
--
--   owner      the role of DATABASE_URL. It runs the migrations and is used only at start.
--   cn_app     serves requests and reconciles keys, bound to one environment by the transaction's setting
--              cloudnexus.environment_id (Sql.as in db/database.ts). Without the setting it reads and writes nothing.
--   cn_engine  does what belongs to no tenant: claims and completes work, sweeps, authenticates keys. It spans environments
--              and has privileges on few tables.
--
-- The two groups belong to the whole cluster; each installation has its own login roles in them (db/roles.ts).
--
-- Every new table enables row-level security in the migration that creates it:
--
--   select isolate_tenant_table('things');
--   select isolate_tenant_table('things', app => 'select, insert', engine => 'select, delete');
--
-- The table needs a column environment_id or project_id. `app` is the privileges of requests and reconcilers on the rows
-- of their environment (default: select, insert, update, delete). `engine` is the privileges on all rows (default: none;
-- list what a plain `deps.sql` does with the table). For a table that belongs to no tenant, use isolate_table('things',
-- engine => 'select'). Sequences that are used by name need `grant usage`; identity columns do not. Where a tenant needs
-- data beyond its rows, add a small security definer function with a fixed search_path that returns an aggregate.
-- tenants.test.ts fails for a table without row-level security and for a function that PUBLIC can execute.

do $$
declare
  role_name text;
begin
  foreach role_name in array array['cn_app', 'cn_engine'] loop
    if not exists (select from pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then
        null; -- a concurrent migration of another database of the cluster created it
      end;
    end if;
  end loop;
end $$;

-- Null or empty when the connection is not bound, and then equal to no ID.
create function current_environment_id() returns text
  language sql stable parallel safe
  as $$ select current_setting('cloudnexus.environment_id', true) $$;

-- Schema-qualified, because functions with a fixed search_path call it.
create or replace function environment_now(environment_id text) returns timestamptz
  language sql stable
  as $$ select coalesce(e.clock_frozen_at, now() + e.clock_offset) from public.environments e where e.id = environment_id $$;

-- With FORCE, the policies also apply to the owner of the table.
create function isolate_table(target regclass, engine text default null) returns void
  language plpgsql
  as $$
begin
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format('create policy installation on %s to cn_engine, current_user using (true)', target);
  if engine is not null then
    execute format('grant %s on %s to cn_engine', engine, target);
  end if;
end $$;

create function isolate_tenant_table(
  target regclass,
  app text default 'select, insert, update, delete',
  engine text default null
) returns void
  language plpgsql
  as $$
declare
  columns name[] := array(select attname from pg_attribute where attrelid = target and attnum > 0 and not attisdropped);
  belongs text := case
    when 'environment_id' = any(columns) then 'environment_id = current_environment_id()'
    when 'project_id' = any(columns) then
      'project_id = (select e.project_id from environments e where e.id = current_environment_id())'
  end;
begin
  if belongs is null then
    raise exception '% has neither environment_id nor project_id', target;
  end if;
  perform isolate_table(target, engine);
  execute format('create policy tenant on %s to cn_app using (%s)', target, belongs);
  execute format('grant %s on %s to cn_app', app, target);
end $$;

revoke execute on function isolate_table, isolate_tenant_table from public;

-- Null: a pool that all environments share.
alter table address_pools add column environment_id text references environments;
update address_pools p set environment_id = s.environment_id from subnets s where s.pool_id = p.id;
update address_pools p set environment_id = e.id from environments e where p.id = 'public:' || e.id;

-- The environment that holds the address, also in a shared pool.
alter table addresses add column environment_id text references environments default current_environment_id();
update addresses a set environment_id = i.environment_id from instances i where i.id = a.instance_id;
delete from addresses where environment_id is null;
alter table addresses alter column environment_id set not null;

select isolate_table('migrations');
select isolate_tenant_table('work', app => 'select, insert, update', engine => 'select, insert, update, delete');
select isolate_tenant_table('environment_heads', app => 'select, update');
select isolate_tenant_table('events', app => 'select, insert');
select isolate_tenant_table('api_keys', app => 'select, insert, update', engine => 'select');
select isolate_tenant_table('subnets');
select isolate_tenant_table('ssh_keys');
select isolate_tenant_table('instances');
select isolate_tenant_table('addresses', app => 'select, insert, delete', engine => 'select, delete');
select isolate_tenant_table('simulated_machines', engine => 'delete');
grant usage on sequence address_tickets to cn_app;

-- What the sweeps compare. A statement that lacks its tenant reads more columns and fails.
grant select (id, environment_id, mode, region, status, private_ip, wanted_public_ip, observed_public_ip)
  on instances to cn_engine;
grant select (id) on simulated_machines to cn_engine;

select isolate_table('environments', engine => 'select');
create policy tenant on environments to cn_app using (id = current_environment_id());
grant select on environments to cn_app;

select isolate_table('projects');
create policy tenant on projects to cn_app
  using (id = (select e.project_id from environments e where e.id = current_environment_id()));
grant select on projects to cn_app;

-- Rows without an environment are shared: every tenant can read them, and none can write them.
select isolate_table('address_pools');
create policy tenant_reads on address_pools for select to cn_app
  using (environment_id is null or environment_id = current_environment_id());
create policy tenant_adds on address_pools for insert to cn_app with check (environment_id = current_environment_id());
create policy tenant_removes on address_pools for delete to cn_app using (environment_id = current_environment_id());
grant select, insert, delete on address_pools to cn_app;

-- Images of the catalogue belong to the system environment, and only it can change them. Creating an instance locks its
-- image, and a lock needs to pass the policy of updates: hence two conditions. Updates are limited to these columns, so
-- that no tenant can take over a row of the catalogue.
select isolate_table('images');
create policy tenant_reads on images for select to cn_app
  using (environment_id is null or environment_id = current_environment_id());
create policy tenant_adds on images for insert to cn_app with check (environment_id = current_environment_id());
create policy tenant_changes on images for update to cn_app
  using (environment_id is null or environment_id = current_environment_id())
  with check (coalesce(environment_id, 'env_system') = current_environment_id());
create policy tenant_removes on images for delete to cn_app using (environment_id = current_environment_id());
grant select, insert, delete on images to cn_app;
grant update (name, wanted_import, wanted_gone, observed_import, observed_state, observed_progress, observed_error,
  observed_manifest) on images to cn_app;

-- Functions that span tenants inside a tenant's transaction. Each returns a sum, a free number, or nothing.

-- What the live instances of a region reserve, except one of them, with an overhead of memory for each machine.
create function used_capacity(in_region text, except_id text, overhead_bytes bigint)
  returns table (vcpus bigint, memory_bytes bigint, disk_bytes bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select coalesce(sum(i.wanted_vcpus), 0)::bigint, coalesce(sum(i.wanted_memory_bytes + overhead_bytes), 0)::bigint,
      coalesce(sum(i.wanted_disk_bytes), 0)::bigint
    from public.instances i
    where i.region = in_region and i.mode = 'live' and i.status <> 'terminated' and i.id is distinct from except_id
  $$;

-- The lowest free address of a pool from this offset on; null when there is none, or when the pool is another tenant's.
create function free_address(of_pool text, first_offset bigint) returns inet
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    with pool as (
      select set_masklen(network(p.range)::inet, 32) as base, (2::numeric ^ (32 - masklen(p.range)))::bigint - 2 as last
      from public.address_pools p
      where p.id = of_pool and (p.environment_id is null or p.environment_id = public.current_environment_id())
    ), behind as (
      select first_offset as at
      union all
      select a.address - pool.base + 1 from pool, public.addresses a where a.pool_id = of_pool
    )
    select pool.base + at from behind, pool
    where at <= pool.last and not exists (
      select from public.addresses a where a.pool_id = of_pool and a.address = pool.base + at)
    order by at limit 1
  $$;

-- A private network number of this host that no subnet uses. The sequence cycles after 16,000.
create function free_subnet_segment() returns integer
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    select segment
    from (select nextval('public.subnet_segments')::integer as segment from generate_series(1, 16000)) next
    where not exists (select from public.subnets s where s.segment = next.segment) limit 1
  $$;

-- Requests the import of a catalogue image, unless it is on this host or being imported.
create function import_catalogue_image(image_id text) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  update public.images i set wanted_import = i.wanted_import + 1
  where i.id = image_id and i.environment_id is null and i.observed_state in ('absent', 'failed')
    and i.observed_import = i.wanted_import;
  if not found then return; end if;
  insert into public.work as w (kind, id, environment_id, due_at)
  values ('image', image_id, 'env_system', public.environment_now('env_system'))
  on conflict (kind, id) do update set
    due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1;
end $$;

-- Wakes every instance that waits for this image, in the order of their IDs, so that two calls cannot deadlock.
create function wake_instances_waiting_for(awaited_image_id text) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    insert into public.work as w (kind, id, environment_id, due_at)
    select 'instance', i.id, i.environment_id, public.environment_now(i.environment_id) from public.instances i
    where i.image_id = awaited_image_id and i.status = 'provisioning' order by i.id
    on conflict (kind, id) do update set
      due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1
  $$;

revoke execute on function used_capacity, free_address, free_subnet_segment, import_catalogue_image,
  wake_instances_waiting_for from public;
grant execute on function used_capacity, free_address, free_subnet_segment, import_catalogue_image,
  wake_instances_waiting_for to cn_app;
