-- Default quotas apply to all projects except that of the operator, the first one.
alter table environment_heads add column of_operator boolean not null default false;
update environment_heads set of_operator = belongs_to_operator(environment_id);
create or replace function open_environment_head() returns trigger language plpgsql
  as $$
begin
  insert into environment_heads (environment_id, of_operator) values (new.id, belongs_to_operator(new.id));
  return null;
end $$;

-- The API keys that count against a quota: those that are not revoked, expired or replaced.
create index api_keys_counted on api_keys (environment_id, (coalesce(least(expires_at, revoked_at), 'infinity')))
  where retires_at is null;

-- When the deletion of a project was requested, in real time; null: the project is not being deleted.
alter table projects add column wanted_gone_at timestamptz;
grant update (wanted_gone_at) on projects to cn_app;
grant select (id, wanted_gone_at) on projects to cn_engine;

-- The environments of any project. Only the operator's project can use it.
create function project_environments(of_project text) returns table (live text, test text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select max(e.id) filter (where e.mode = 'live'), max(e.id) filter (where e.mode = 'test')
    from public.environments e
    where e.project_id = of_project and public.belongs_to_operator(public.current_environment_id())
  $$;
revoke execute on function project_environments from public;
grant execute on function project_environments to cn_app;

-- No request changes anything in the environment any more: its project is being deleted.
alter table environment_heads add column closed boolean not null default false;

-- Refuses the outbox of a transaction whose statement did not find the environment's row: CN004 if the environment is gone,
-- or closed to the transaction, otherwise CN001.
create function refuse_outbox(of_environment text, is_request boolean) returns integer language plpgsql
  as $$
begin
  perform from environment_heads h where h.environment_id = of_environment and not (h.closed and is_request);
  if not found then raise exception 'the project is being deleted' using errcode = 'CN004'; end if;
  raise exception 'the project would use more than it may' using errcode = 'CN001';
end $$;
drop function refuse_over_quota();

-- The entries of a project are deleted with it, and never otherwise.
create or replace function refuse_change() returns trigger language plpgsql
  as $$
begin
  if tg_op = 'DELETE' then
    perform from public.environments e join public.projects p on p.id = e.project_id
    where e.id = old.environment_id and p.wanted_gone_at is not null;
    if found then return old; end if;
  end if;
  raise exception 'entries of % are never changed', tg_table_name;
end $$;

-- The environments of these that exist, which stay until the transaction ends. The request log writes only rows of these.
create function lock_environments(ids text[]) returns setof text
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$ select e.id from public.environments e where e.id = any(ids) order by e.id for key share $$;

-- The environments of a project that is being deleted and has no machines: of no other project, and of no environment of
-- which an instance is not terminated.
create function deletable_environments(of_project text) returns text[]
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select array_agg(e.id) from public.environments e join public.projects p on p.id = e.project_id
    where p.id = of_project and p.wanted_gone_at is not null
      and not exists (
        select from public.instances i join public.environments o on o.id = i.environment_id
        where o.project_id = p.id and i.status <> 'terminated')
  $$;

-- Deletes rows of a project that is being deleted, table by table and at most `batch` of each. Returns how many. The
-- reconcilers of images and webhooks delete their rows; what these refer to stays until then.
create function purge_project(of_project text, batch integer) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  owned text[] := public.deletable_environments(of_project);
  targets text[] := array['recoveries', 'addresses', 'simulated_machines', 'instances'];
  target text;
  deleted integer;
  total integer := 0;
begin
  if owned is null then return 0; end if;
  if not exists (select from public.images i where i.environment_id = any(owned))
    and not exists (select from public.webhooks w where w.environment_id = any(owned)) then
    targets := targets || array['webhook_attempts', 'webhook_deliveries', 'ssh_keys', 'subnets', 'address_pools', 'events',
      'idempotency_keys', 'audit_log', 'api_keys', 'budgets', 'rate_limits'];
  end if;
  -- Each partition is a table of its own, because a row number belongs to one table.
  targets := targets || array(
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent in ('public.requests'::regclass, 'public.spans'::regclass))::text[];
  foreach target in array targets loop
    -- A key refers only to older ones.
    execute format(
      'delete from public.%1$I where ctid = any(array(
        select ctid from public.%1$I where environment_id = any($1) %2$s limit $2))',
      target, case target when 'api_keys' then 'order by ordinal desc' else '' end)
    using owned, batch;
    get diagnostics deleted = row_count;
    total := total + deleted;
    -- The next tables are referred to by this one.
    if deleted = batch then return total; end if;
  end loop;
  return total;
end $$;

-- Deletes a project whose rows are purged, with its environments and work rows. Returns null, or the name of a table that
-- still has rows; all tables of the product have row-level security. It locks the environments first, so that no other
-- transaction adds rows.
create function finish_project_deletion(of_project text) returns text
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  owned text[];
  target record;
  remains boolean;
begin
  perform from public.environments e where e.project_id = of_project order by e.id for update;
  owned := public.deletable_environments(of_project);
  if owned is null then return 'instances'; end if;
  for target in
    select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relrowsecurity
      and not c.relispartition and a.attname in ('environment_id', 'project_id') and not a.attisdropped
      and c.relname not in ('environments', 'environment_heads', 'work')
  loop
    execute format('select exists (select from public.%I where %I = any($1))', target.relname, target.attname)
    into remains using owned || of_project;
    if remains then return target.relname; end if;
  end loop;
  delete from public.work w where w.environment_id = any(owned);
  delete from public.environment_heads h where h.environment_id = any(owned);
  delete from public.environments e where e.id = any(owned);
  delete from public.projects p where p.id = of_project;
  return null;
end $$;

revoke execute on function lock_environments, deletable_environments, purge_project, finish_project_deletion from public;
grant execute on function lock_environments, purge_project, finish_project_deletion to cn_engine;
