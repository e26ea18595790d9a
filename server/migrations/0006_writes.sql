-- What every write stores besides its effect, in the same transaction: its audit entry, its change of the project's
-- usage, and the response for a repetition of the request.

-- The head of an environment is locked only for the last statement of a transaction. Usage is compared with the limit
-- there, so that concurrent creates wait for each other only briefly. `quota` has what differs from the operator's
-- configuration: { "instances": 10 }; null means no limit.
alter table environment_heads
  add column quota jsonb not null default '{}',
  add column used_instances bigint not null default 0,
  add column used_vcpus bigint not null default 0,
  add column used_memory_bytes bigint not null default 0,
  add column used_disk_bytes bigint not null default 0,
  add column used_public_ips bigint not null default 0,
  add column audit_sequence bigint not null default 0,
  -- SHA-256 over the hash of the previous entry (32 zero bytes for the first) and the digest of the entry.
  add column audit_hash bytea not null default decode(repeat('00', 32), 'hex');

update environment_heads h set
  used_instances = u.instances, used_vcpus = u.vcpus, used_memory_bytes = u.memory_bytes,
  used_disk_bytes = u.disk_bytes, used_public_ips = u.public_ips
from (
  select environment_id, count(*) as instances, sum(wanted_vcpus) as vcpus, sum(wanted_memory_bytes) as memory_bytes,
    sum(wanted_disk_bytes) as disk_bytes, count(wanted_public_ip) as public_ips
  from instances where status <> 'terminated' group by environment_id
) as u where u.environment_id = h.environment_id;

-- The last statement of a transaction is sent together with the commit, so it raises an error to prevent the commit.
create function refuse_over_quota() returns integer language plpgsql
  as $$ begin raise exception 'the project would use more than it may' using errcode = 'CN001'; end $$;

create table audit_log (
  environment_id text not null references environments,
  sequence bigint not null,
  id text not null unique,
  -- Real time, with milliseconds.
  created_at timestamptz not null,
  key_id text not null,
  address text,
  request_id text not null,
  req_id text not null,
  action text not null,
  resource text,
  outcome text not null check (outcome in ('done', 'refused')),
  status integer not null,
  code text,
  before jsonb,
  after jsonb,
  -- SHA-256 of the entry in canonical JSON (RFC 8785), as the API shows it without sequence and hash.
  digest bytea not null,
  hash bytea not null,
  primary key (environment_id, sequence)
);
create index audit_log_resource on audit_log (environment_id, resource, sequence);
create index audit_log_request on audit_log (environment_id, request_id);

-- The audit log is append-only.
create function refuse_change() returns trigger language plpgsql
  as $$ begin raise exception 'entries of % are never changed', tg_table_name; end $$;
create trigger append_only before update or delete on audit_log for each row execute function refuse_change();
create trigger append_only_whole before truncate on audit_log for each statement execute function refuse_change();

create table idempotency_keys (
  environment_id text not null references environments,
  method text not null,
  path text not null,
  key text not null,
  -- SHA-256 of the request's parameters and body in canonical JSON.
  request_digest bytea not null,
  status integer not null,
  headers jsonb not null,
  body text,
  -- Real time: kept for 24 hours.
  created_at timestamptz not null default now(),
  primary key (environment_id, method, path, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);

select isolate_tenant_table('audit_log', app => 'select, insert');
select isolate_tenant_table('idempotency_keys', app => 'select, insert, update', engine => 'select, delete');

-- The quotas of any project that differ from the operator's configuration. Only the operator's project can use them.
create function project_quotas(of_project text) returns jsonb
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select jsonb_object_agg(e.mode, h.quota)
    from public.environments e join public.environment_heads h on h.environment_id = e.id
    where e.project_id = of_project and public.belongs_to_operator(public.current_environment_id())
  $$;
create function set_project_quota(of_project text, of_mode text, new_quota jsonb) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    update public.environment_heads h set quota = new_quota from public.environments e
    where e.id = h.environment_id and e.project_id = of_project and e.mode = of_mode
      and public.belongs_to_operator(public.current_environment_id())
  $$;
revoke execute on function project_quotas, set_project_quota from public;
grant execute on function project_quotas, set_project_quota to cn_app;
