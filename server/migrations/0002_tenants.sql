-- The second wall between tenants. The first is the `where environment_id = …` of each statement; this one holds where
-- such a clause was forgotten. Three kinds of roles:
--
--   owner      the role of DATABASE_URL. It migrates, is used at start only, and is nobody's role afterwards.
--   cn_app     whoever serves a request or reconciles a key, bound to one environment by the transaction's setting
--              cloudnexus.environment_id (Sql.as in db/database.ts). Without the setting it sees and writes nothing.
--   cn_engine  what has no tenant: claiming and finishing work, sweeps, looking a key up. Across environments, with
--              rights on these few tables only.
--
-- The two groups are of the whole cluster; each installation has login roles of its own in them (db/roles.ts).
--
-- A new table gets its wall in the migration that makes it:
--
--   select isolate_tenant_table('things');
--   select isolate_tenant_table('things', app => 'select, insert', engine => 'select, delete');
--
-- It needs a column environment_id, or else project_id. `app` are the rights of requests and reconcilers on the rows of
-- their environment (default: select, insert, update, delete), `engine` the rights across all of them (default: none;
-- name what a plain `deps.sql` does with the table). A table that belongs to no tenant: isolate_table('things', engine =>
-- 'select'). Sequences that are drawn from by name need `grant usage`; identity columns need nothing. What a tenant may
-- learn or do beyond its rows is a small function, security definer, with a pinned search_path, that answers an
-- aggregate. tenants.test.ts fails for a table without its wall and for a function that is open to everybody.

do $$
declare
  role_name text;
begin
  foreach role_name in array array['cn_app', 'cn_engine'] loop
    if not exists (select from pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then
        null; -- another database of the cluster was migrated at the same moment
      end;
    end if;
  end loop;
end $$;

-- Null or empty without a binding, and equal to no id then.
create function current_environment_id() returns text
  language sql stable parallel safe
  as $$ select current_setting('cloudnexus.environment_id', true) $$;

-- By its full name, because functions with a pinned search_path call it.
create or replace function environment_now(environment_id text) returns timestamptz
  language sql stable
  as $$ select coalesce(e.clock_frozen_at, now() + e.clock_offset) from public.environments e where e.id = environment_id $$;

-- Forced, so that not even the owner passes but by a policy that says so.
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

-- Who holds the address, also one of a shared pool.
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

-- What the sweeps compare. A statement about instances that forgot its tenant asks for more, and is refused.
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

-- Rows without an environment are shared: everybody reads them, nobody's tenant writes them.
select isolate_table('address_pools');
create policy tenant_reads on address_pools for select to cn_app
  using (environment_id is null or environment_id = current_environment_id());
create policy tenant_adds on address_pools for insert to cn_app with check (environment_id = current_environment_id());
create policy tenant_removes on address_pools for delete to cn_app using (environment_id = current_environment_id());
grant select, insert, delete on address_pools to cn_app;

-- The catalogue's images belong to the environment of the installation's own work, which alone changes them. A lock
-- passes by the policy of updates, and creating an instance locks its image: hence two conditions. So that nobody can
-- make a row of the catalogue his own, only these columns may change at all.
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

-- What spans tenants inside a tenant's transaction. Each answers no more than a sum, a free number, or nothing.

-- What the live instances of a region have reserved, except one of them; to each one's memory the machine's overhead.
create function used_capacity(in_region text, except_id text, overhead_bytes bigint)
  returns table (vcpus bigint, memory_bytes bigint, disk_bytes bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select coalesce(sum(i.wanted_vcpus), 0)::bigint, coalesce(sum(i.wanted_memory_bytes + overhead_bytes), 0)::bigint,
      coalesce(sum(i.wanted_disk_bytes), 0)::bigint
    from public.instances i
    where i.region = in_region and i.mode = 'live' and i.status <> 'terminated' and i.id is distinct from except_id
  $$;

-- The lowest address of a pool that nobody holds, from this offset on; null: there is none, or no such pool for us.
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

-- A number of a private network on the host that no subnet has; the sequence comes round after 16,000.
create function free_subnet_segment() returns integer
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    select segment
    from (select nextval('public.subnet_segments')::integer as segment from generate_series(1, 16000)) next
    where not exists (select from public.subnets s where s.segment = next.segment) limit 1
  $$;

-- Asks for an image of the catalogue to be brought to this host, unless it is there or on its way.
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

-- Wakes every instance that waits for this image, in the order of their ids, so that two of these cannot lock each other out.
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
