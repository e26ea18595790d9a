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
