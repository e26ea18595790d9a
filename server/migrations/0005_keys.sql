-- What may be made through a key, and through all keys that come from it. A budget that was made by a key with a budget
-- lies within that one: what is made counts in every budget of its lineage.
create table budgets (
  id text primary key,
  environment_id text not null references environments,
  -- From the outermost budget to this one, both included.
  lineage text[] not null check (lineage[cardinality(lineage)] = id),
  max_instances integer,
  max_vcpus integer,
  ttl_seconds integer,
  -- The sum over the instances that are there; kept by every create, resize and end, and by the sweep.
  used_instances integer not null default 0,
  used_vcpus integer not null default 0,
  created_at timestamptz not null
);

alter table api_keys
  add column ordinal bigint generated always as identity,
  -- Addresses and CIDRs, canonical; null: from everywhere.
  add column allowed_addresses text[],
  add column budget_id text references budgets,
  -- Keys: the one whose owner asked for this one, and the one that this one takes the place of.
  add column created_by text references api_keys,
  add column replaces text references api_keys,
  -- When its successor is alone; expires_at stays as it was wished for.
  add column retires_at timestamptz,
  add column last_used_at timestamptz,
  add column last_used_address inet;
create index api_keys_listed on api_keys (environment_id, ordinal);
create index api_keys_replaces on api_keys (replaces) where replaces is not null;

alter table projects add column ordinal bigint generated always as identity;

alter table instances
  -- The key that it was made by.
  add column created_by text references api_keys,
  add column budget_id text references budgets,
  -- Its time was up at a look; it does not come back, even if a test environment's clock is set back.
  add column observed_expired boolean not null default false;
create index instances_budget on instances (budget_id) where budget_id is not null and status <> 'terminated';

-- The engine recounts budgets of all tenants, and notes when keys were used.
select isolate_tenant_table('budgets', app => 'select, insert, update', engine => 'select, update');
grant select (budget_id, wanted_vcpus) on instances to cn_engine;
grant update (last_used_at, last_used_address) on api_keys to cn_engine;

-- The first project is the operator's: it makes the others and knows their names.
create function belongs_to_operator(environment_id text) returns boolean
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select exists (
      select from public.environments e
      where e.id = environment_id and e.project_id = (select p.id from public.projects p order by p.ordinal limit 1))
  $$;
revoke execute on function belongs_to_operator from public;
grant execute on function belongs_to_operator to cn_app;
create policy operator on projects to cn_app using (belongs_to_operator(current_environment_id()));
grant insert, update (name) on projects to cn_app;
-- A new environment is made by who is bound to it already: its row is the first that the binding lets in.
grant insert on environments, environment_heads to cn_app;
