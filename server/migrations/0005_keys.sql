-- Limits what a key, and all keys created from it, can create. A budget that was created by a key with a budget lies
-- within that one: usage counts in every budget of its lineage.
create table budgets (
  id text primary key,
  environment_id text not null references environments,
  -- From the outermost budget to this one, both included.
  lineage text[] not null check (lineage[cardinality(lineage)] = id),
  max_instances integer,
  max_vcpus integer,
  ttl_seconds integer,
  -- The sum over the instances that exist. Every create, resize and termination updates it, and the sweep corrects it.
  used_instances integer not null default 0,
  used_vcpus integer not null default 0,
  created_at timestamptz not null
);

alter table api_keys
  add column ordinal bigint generated always as identity,
  -- IP addresses and CIDRs in canonical form; null: no restriction.
  add column allowed_addresses text[],
  add column budget_id text references budgets,
  -- The key that created this one, and the key that this one replaces.
  add column created_by text references api_keys,
  add column replaces text references api_keys,
  -- When the old key of a rotation becomes invalid; expires_at stays as requested.
  add column retires_at timestamptz,
  add column last_used_at timestamptz,
  add column last_used_address inet;
create index api_keys_listed on api_keys (environment_id, ordinal);
create index api_keys_replaces on api_keys (replaces) where replaces is not null;

alter table projects add column ordinal bigint generated always as identity;

alter table instances
  -- The key that created the instance.
  add column created_by text references api_keys,
  add column budget_id text references budgets,
  -- A reconcile pass has seen the instance expired. It stays true, even if the clock of a test environment is set back.
  add column observed_expired boolean not null default false;
create index instances_budget on instances (budget_id) where budget_id is not null and status <> 'terminated';

-- The engine recounts the budgets of all tenants, and records when keys were used.
select isolate_tenant_table('budgets', app => 'select, insert, update', engine => 'select, update');
grant select (budget_id, wanted_vcpus) on instances to cn_engine;
grant update (last_used_at, last_used_address) on api_keys to cn_engine;

-- The first project is the operator's: it can create projects and read their names.
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
-- A transaction that creates an environment is already bound to it: its row is the first that the binding admits.
grant insert on environments, environment_heads to cn_app;
