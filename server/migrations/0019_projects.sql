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
