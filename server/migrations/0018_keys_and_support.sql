-- The end of a key (the earlier of expires_at and retires_at) that the event api_key.expiring has reported; null: none. A
-- key whose end changes is reported again.
alter table api_keys add column observed_ends_at timestamptz;
create index api_keys_expiring on api_keys (least(expires_at, retires_at))
  where revoked_at is null and least(expires_at, retires_at) is distinct from observed_ends_at;

-- The operator's project searches the request log of all projects, in transactions that set cloudnexus.all_projects. Other
-- statements of its environments read only their own rows, as those of every tenant do. The subquery runs once per statement.
create policy operator on requests for select to cn_app using ((
  select current_setting('cloudnexus.all_projects', true) = 'on' and belongs_to_operator(current_environment_id())));

-- The environments of all projects. Only the operator's project can use it.
create function all_environments() returns table (id text, project_id text, mode text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select e.id, e.project_id, e.mode from public.environments e
    where e.project_id is not null and public.belongs_to_operator(public.current_environment_id())
  $$;
revoke execute on function all_environments from public;
grant execute on function all_environments to cn_app;
