-- HTTP endpoints that receive events. Times are the environment's unless a comment says otherwise.
create table webhooks (
  environment_id text not null references environments,
  id text primary key,
  ordinal bigint generated always as identity,
  url text not null,
  -- Types of events: exact, 'instance.*' or '*'.
  events text[] not null,
  description text not null,
  wanted_enabled boolean not null,
  wanted_gone boolean not null default false,
  -- Encrypted; see lib/secret-box.ts. The previous secret also signs until previous_secret_until (real time).
  secret bytea not null,
  previous_secret bytea,
  previous_secret_until timestamptz,
  -- The key whose scopes apply: the one that created the webhook or last changed its URL or events.
  key_id text not null references api_keys,
  observed_disabled_reason text check (observed_disabled_reason in ('gone', 'failing', 'key_ended')),
  observed_disabled_at timestamptz,
  -- The first and the last failure since the last success; null: none.
  observed_failing_since timestamptz,
  observed_failed_at timestamptz,
  -- The receiver reported that it is busy: one request at a time, until a success.
  observed_throttled boolean not null default false,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  version integer not null default 1
);
create index webhooks_listed on webhooks (environment_id, ordinal);

-- Deliveries and their results. No foreign keys: each insert would lock a row that all deliveries share.
create table webhook_deliveries (
  environment_id text not null,
  id text primary key,
  ordinal bigint generated always as identity,
  webhook_id text not null,
  event_id text not null,
  event_sequence bigint not null,
  event_type text not null,
  cause text not null check (cause in ('event', 'resend', 'replay', 'ping')),
  status text not null default 'pending' check (status in ('pending', 'succeeded', 'failed', 'cancelled')),
  -- Why the delivery was cancelled, or why the last attempt failed.
  reason text,
  attempts integer not null default 0,
  -- When the next attempt is due; null: no further attempt.
  due_at timestamptz,
  created_at timestamptz not null,
  finished_at timestamptz,
  -- Real time, for the retention of the log.
  recorded_at timestamptz not null default clock_timestamp()
);
-- Replayed events are delivered after new ones.
create index webhook_deliveries_due on webhook_deliveries (webhook_id, due_at, ordinal) where status = 'pending' and cause <> 'replay';
create index webhook_deliveries_replayed on webhook_deliveries (webhook_id, due_at, ordinal) where status = 'pending' and cause = 'replay';
create index webhook_deliveries_listed on webhook_deliveries (webhook_id, ordinal);
create index webhook_deliveries_event on webhook_deliveries (webhook_id, event_sequence);
create index webhook_deliveries_age on webhook_deliveries (recorded_at);

-- Each HTTP request of a delivery, in real time.
create table webhook_attempts (
  environment_id text not null,
  delivery_id text not null references webhook_deliveries on delete cascade,
  number integer not null,
  started_at timestamptz not null,
  duration_ms double precision not null,
  -- Its parts, where they took place: name resolution, connection with TLS, wait for the response.
  dns_ms double precision,
  connect_ms double precision,
  first_byte_ms double precision,
  -- Without the signature.
  request_headers jsonb not null,
  response_status smallint,
  response_headers jsonb,
  -- Its first 4 KiB.
  response_body text,
  error text,
  primary key (delivery_id, number)
);

-- The number of webhooks. When it is 0, writing an event reads nothing more.
alter table environment_heads add column webhooks integer not null default 0;

-- Queues the deliveries of a transaction's events; the statement that writes the events calls it. It reads what was
-- committed before the environment was locked, so no event that follows the creation of a webhook is missed. The ID of a
-- first delivery is derived from event and webhook, so it is unique. A ping is delivered only to its own webhook.
create function queue_deliveries(
  in_environment text, event_ids text[], sequences bigint[], types text[], resource_ids text[], at timestamptz
) returns integer language plpgsql
  as $$
begin
  with queued as (
    insert into webhook_deliveries
      (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, due_at, created_at)
    select w.environment_id, 'dlv_' || left(encode(sha256(convert_to(e.id || w.id, 'UTF8')), 'hex'), 20), w.id,
      e.id, e.sequence, e.type, case when e.type = 'webhook.ping' then 'ping' else 'event' end, at, at
    from unnest(event_ids, sequences, types, resource_ids) as e(id, sequence, type, resource_id)
      join webhooks w on case when e.type = 'webhook.ping' then w.id = e.resource_id
        else w.events && array['*', split_part(e.type, '.', 1) || '.*', e.type] end
    where w.environment_id = in_environment and w.wanted_enabled and not w.wanted_gone
      and w.observed_disabled_reason is null
    order by e.sequence
    returning webhook_id
  )
  insert into work as w (kind, id, environment_id, due_at)
  select distinct 'webhook', q.webhook_id, in_environment, at from queued q order by q.webhook_id
  on conflict (kind, id) do update set
    due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1;
  return 1;
end $$;

select isolate_tenant_table('webhooks');
select isolate_tenant_table('webhook_deliveries', engine => 'select, delete');
select isolate_tenant_table('webhook_attempts', app => 'select, insert, delete');
grant select (id, environment_id, wanted_gone) on webhooks to cn_engine;
