-- The request log and the spans of what requests caused, in real time, with one partition for each day (UTC).
-- keep_request_days() creates partitions ahead and drops old ones; rows are not deleted one by one.

-- ordinal = milliseconds since 1970 * 2048 + a tick. It orders the log by time, numbers the rows within a millisecond,
-- and is the partition key, so that a list and a cursor read only the partitions that they need.
create sequence request_ticks minvalue 0 maxvalue 2047 cycle;

create table requests (
  ordinal bigint not null,
  id text not null,
  -- Null: the request had no valid key. The API does not show it.
  environment_id text,
  -- The client's X-Request-ID, or the same as id.
  request_id text not null,
  time timestamptz not null,
  key_id text,
  method text not null,
  route text,
  -- The resource that the path names, or that the request created.
  resource text,
  status smallint not null,
  -- The code of the problem in the response.
  code text,
  duration_ms double precision not null,
  address text not null,
  user_agent text,
  -- The client disconnected before the response was sent.
  aborted boolean not null,
  -- The share of such requests that was recorded at that moment.
  sample_rate real not null,
  -- Transactions of a write: [[begin, duration], …] in milliseconds since the request began.
  transactions jsonb,
  primary key (id, ordinal)
) partition by range (ordinal);
create index requests_listed on requests (environment_id, ordinal);
create index requests_failed on requests (environment_id, ordinal) where status >= 400;
create index requests_resource on requests (environment_id, resource, ordinal) where resource is not null;
create index requests_key on requests (environment_id, key_id, ordinal);
create index requests_request_id on requests (environment_id, request_id, ordinal);

-- Steps that requests caused. Writing a batch twice has no effect, because of the primary key.
create table spans (
  environment_id text not null,
  request_id text not null,
  resource text not null,
  started_at timestamptz not null,
  name text not null,
  kind text not null,
  duration_ms double precision not null,
  status text not null,
  -- What the resource waits for until its next span; null: nothing.
  waits_for text,
  detail jsonb not null default '{}',
  primary key (environment_id, request_id, resource, started_at, name)
) partition by range (started_at);

-- When an event was written, in real time: created_at is the environment's, which may be frozen.
alter table events add column recorded_at timestamptz not null default clock_timestamp();
create index events_request on events (environment_id, request_id) where request_id is not null;

-- Creates the partitions from yesterday until three days ahead, and drops those older than keep_days. It runs as the owner
-- of the tables. It waits at most two seconds for its locks, because all inserts wait behind it; the next call retries.
create function keep_request_days(keep_days integer) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
  as $$
declare
  today date := (now() at time zone 'utc')::date;
  day date;
  old text;
  changes integer := 0;
begin
  if keep_days < 1 then raise exception 'keep_days must be at least 1'; end if;
  perform pg_advisory_xact_lock(7202604);
  for day in select today + n from generate_series(-1, 3) n loop
    if to_regclass(format('public.requests_%s', to_char(day, 'YYYYMMDD'))) is null then
      execute format('create table public.requests_%s partition of public.requests for values from (%s) to (%s)',
        to_char(day, 'YYYYMMDD'),
        extract(epoch from day)::bigint * 2048000, extract(epoch from day + 1)::bigint * 2048000);
      execute format('create table public.spans_%s partition of public.spans for values from (%L) to (%L)',
        to_char(day, 'YYYYMMDD'), format('%s 00:00:00+00', day), format('%s 00:00:00+00', day + 1));
      -- Access is only through the parent, whose policies apply.
      execute format('alter table public.requests_%s enable row level security', to_char(day, 'YYYYMMDD'));
      execute format('alter table public.spans_%s enable row level security', to_char(day, 'YYYYMMDD'));
      changes := changes + 1;
    end if;
  end loop;
  for old in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent in ('public.requests'::regclass, 'public.spans'::regclass)
      and right(c.relname, 8) < to_char(today - keep_days, 'YYYYMMDD')
  loop
    execute format('drop table public.%I', old);
    changes := changes + 1;
  end loop;
  return changes;
end $$;
revoke execute on function keep_request_days from public;
grant execute on function keep_request_days to cn_engine;

-- A batch has rows of many tenants, so the engine's role writes it; each tenant reads its own rows.
select isolate_tenant_table('requests', app => 'select', engine => 'select, insert');
select isolate_tenant_table('spans', app => 'select', engine => 'select, insert');
grant usage on sequence request_ticks to cn_engine;
