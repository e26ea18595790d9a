-- The schema of the database, generated from the migrations by `npm run generate`.

-- Privileges

grant delete, insert, select on address_pools to cn_app;

grant delete, insert, select on addresses to cn_app;

grant delete, select on addresses to cn_engine;

grant insert, select, update on api_keys to cn_app;

grant select, update (last_used_address, last_used_at) on api_keys to cn_engine;

grant insert, select on audit_log to cn_app;

grant insert, select, update on budgets to cn_app;

grant select, update on budgets to cn_engine;

grant insert, select, update on environment_heads to cn_app;

grant insert, select on environments to cn_app;

grant select on environments to cn_engine;

grant insert, select on events to cn_app;

grant delete, select (created_at, environment_id, sequence) on events to cn_engine;

grant insert, select, update on idempotency_keys to cn_app;

grant delete, select on idempotency_keys to cn_engine;

grant delete, insert, select, update (name, observed_error, observed_import, observed_manifest, observed_progress, observed_state, reserved_bytes, wanted_gone, wanted_import) on images to cn_app;

grant delete, insert, select, update on instances to cn_app;

grant select (budget_id, environment_id, id, mode, observed_public_ip, private_ip, region, status, wanted_public_ip, wanted_vcpus) on instances to cn_engine;

grant insert, select, update (name, wanted_gone_at) on projects to cn_app;

grant select (id, wanted_gone_at) on projects to cn_engine;

grant delete, insert, select, update on rate_limits to cn_engine;

grant insert, select, update on readiness to cn_engine;

grant insert, select, update on recoveries to cn_app;

grant delete, select (detected_at, environment_id) on recoveries to cn_engine;

grant select on requests to cn_app;

grant insert, select on requests to cn_engine;

grant delete, insert, select, update on simulated_machines to cn_app;

grant delete, select (id) on simulated_machines to cn_engine;

grant select on spans to cn_app;

grant insert, select on spans to cn_engine;

grant delete, insert, select, update on ssh_keys to cn_app;

grant delete, insert, select, update on subnets to cn_app;

grant delete, insert, select on sweep_suspects to cn_engine;

grant delete, insert, select on webhook_attempts to cn_app;

grant delete, insert, select, update on webhook_deliveries to cn_app;

grant delete, select on webhook_deliveries to cn_engine;

grant delete, insert, select, update on webhooks to cn_app;

grant select (environment_id, id, wanted_gone) on webhooks to cn_engine;

grant insert, select, update on work to cn_app;

grant delete, insert, select, update on work to cn_engine;

grant usage on sequence address_tickets to cn_app;

grant usage on sequence request_ticks to cn_engine;

grant usage on sequence work_leases to cn_engine;

grant execute on function all_environments() to cn_app;

grant execute on function belongs_to_operator(environment_id text) to cn_app;

grant execute on function check_authority(caller_id text, granted text[], addresses text[]) to public;

grant execute on function current_environment_id() to public;

grant execute on function environment_now(environment environments) to public;

grant execute on function environment_now(environment_id text) to public;

grant execute on function exchange_rate_limits(asked jsonb, at double precision) to cn_engine;

grant execute on function finish_project_deletion(of_project text) to cn_engine;

grant execute on function flush_work(kinds text[], ids text[], environment_ids text[], leased_kind text, leased_id text, expected_lease bigint) to public;

grant execute on function free_address(of_pool text, first_offset bigint) to cn_app;

grant execute on function free_subnet_segment() to cn_app;

grant execute on function import_catalogue_image(image_id text) to cn_app;

grant execute on function instances_waiting_for_image(awaited_image_id text) to cn_app;

grant execute on function instances_waiting_to_recover(of_instance text) to cn_app;

grant execute on function keep_request_days(keep_days integer) to cn_engine;

grant execute on function lock_environments(ids text[]) to cn_engine;

grant execute on function open_environment_head() to public;

grant execute on function project_environments(of_project text) to cn_app;

grant execute on function project_quotas(of_project text) to cn_app;

grant execute on function purge_project(of_project text, batch integer) to cn_engine;

grant execute on function queue_deliveries(in_environment text, event_ids text[], sequences bigint[], types text[], resource_ids text[], at timestamp with time zone) to public;

grant execute on function recovery_turn(of_instance text, boot text, at_once integer) to cn_app;

grant execute on function refuse_change() to public;

grant execute on function refuse_outbox(of_environment text, is_request boolean) to public;

grant execute on function reserved_image_bytes() to cn_app;

grant execute on function running_imports(except_id text, OUT host integer, OUT project integer) to cn_app;

grant execute on function set_project_quota(of_project text, of_mode text, new_quota jsonb) to cn_app;

grant execute on function used_capacity(in_region text, except_id text, overhead_bytes bigint) to cn_app;

grant execute on function wake_keys(kinds text[], ids text[], environment_ids text[]) to cn_app;

grant execute on function wake_keys(kinds text[], ids text[], environment_ids text[]) to cn_engine;

-- Sequences

create sequence address_tickets as bigint minvalue 0 maxvalue 9223372036854775807;

create sequence request_ticks as bigint minvalue 0 maxvalue 2047 cycle;

create sequence subnet_segments as bigint minvalue 1 maxvalue 16000 cycle;

create sequence work_leases as bigint minvalue 1 maxvalue 9223372036854775807;

-- Tables

create table address_pools (
  id text not null,
  range cidr not null,
  environment_id text,
  constraint address_pools_pkey PRIMARY KEY (id),
  constraint address_pools_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id)
);

create table addresses (
  pool_id text not null,
  address inet not null,
  instance_id text not null,
  environment_id text default current_environment_id() not null,
  constraint addresses_pkey PRIMARY KEY (pool_id, address),
  constraint addresses_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint addresses_pool_id_fkey FOREIGN KEY (pool_id) REFERENCES address_pools(id)
);

create table api_keys (
  id text not null,
  environment_id text not null,
  name text not null,
  digest bytea not null,
  prefix text not null,
  scopes text[] not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone,
  revoked_at timestamp with time zone,
  ordinal bigint generated always as identity not null,
  allowed_addresses text[],
  budget_id text,
  created_by text,
  replaces text,
  retires_at timestamp with time zone,
  last_used_at timestamp with time zone,
  last_used_address inet,
  observed_ends_at timestamp with time zone,
  constraint api_keys_pkey PRIMARY KEY (id),
  constraint api_keys_digest_key UNIQUE (digest),
  constraint api_keys_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets(id),
  constraint api_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES api_keys(id),
  constraint api_keys_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint api_keys_replaces_fkey FOREIGN KEY (replaces) REFERENCES api_keys(id)
);

create table audit_log (
  environment_id text not null,
  sequence bigint not null,
  id text not null,
  created_at timestamp with time zone not null,
  key_id text not null,
  address text,
  request_id text not null,
  req_id text not null,
  action text not null,
  resource text,
  outcome text not null,
  status integer not null,
  code text,
  before jsonb,
  after jsonb,
  digest bytea not null,
  hash bytea not null,
  constraint audit_log_pkey PRIMARY KEY (environment_id, sequence),
  constraint audit_log_id_key UNIQUE (id),
  constraint audit_log_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint audit_log_outcome_check CHECK (outcome = ANY (ARRAY['done'::text, 'refused'::text]))
);

create table budgets (
  id text not null,
  environment_id text not null,
  lineage text[] not null,
  max_instances integer,
  max_vcpus integer,
  ttl_seconds integer,
  used_instances integer default 0 not null,
  used_vcpus integer default 0 not null,
  created_at timestamp with time zone not null,
  constraint budgets_pkey PRIMARY KEY (id),
  constraint budgets_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint budgets_check CHECK (lineage[cardinality(lineage)] = id)
);

create table environment_heads (
  environment_id text not null,
  sequence bigint default 0 not null,
  quota jsonb default '{}'::jsonb not null,
  used_instances bigint default 0 not null,
  used_vcpus bigint default 0 not null,
  used_memory_bytes bigint default 0 not null,
  used_disk_bytes bigint default 0 not null,
  used_public_ips bigint default 0 not null,
  audit_sequence bigint default 0 not null,
  audit_hash bytea default decode(repeat('00'::text, 32), 'hex'::text) not null,
  webhooks integer default 0 not null,
  used_images bigint default 0 not null,
  used_image_bytes bigint default 0 not null,
  of_operator boolean default false not null,
  closed boolean default false not null,
  constraint environment_heads_pkey PRIMARY KEY (environment_id),
  constraint environment_heads_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id)
);

create table environments (
  id text not null,
  project_id text,
  mode text not null,
  clock_frozen_at timestamp with time zone,
  clock_offset interval default '00:00:00'::interval not null,
  constraint environments_pkey PRIMARY KEY (id),
  constraint environments_project_id_mode_key UNIQUE NULLS NOT DISTINCT (project_id, mode),
  constraint environments_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects(id),
  constraint environments_check CHECK ((mode = 'system'::text) = (project_id IS NULL)),
  constraint environments_mode_check CHECK (mode = ANY (ARRAY['live'::text, 'test'::text, 'system'::text]))
);

create table events (
  environment_id text not null,
  sequence bigint not null,
  id text not null,
  type text not null,
  resource_type text not null,
  resource_id text not null,
  request_id text,
  created_at timestamp with time zone not null,
  data json not null,
  recorded_at timestamp with time zone default clock_timestamp() not null,
  constraint events_pkey PRIMARY KEY (environment_id, sequence),
  constraint events_id_key UNIQUE (id),
  constraint events_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id)
);

create table idempotency_keys (
  environment_id text not null,
  method text not null,
  path text not null,
  key text not null,
  request_digest bytea not null,
  status integer not null,
  headers jsonb not null,
  body text,
  created_at timestamp with time zone default now() not null,
  constraint idempotency_keys_pkey PRIMARY KEY (environment_id, method, path, key),
  constraint idempotency_keys_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id)
);

create table images (
  id text not null,
  environment_id text,
  ordinal bigint generated always as identity not null,
  name text not null,
  description text not null,
  source jsonb not null,
  ready_signal text not null,
  ssh_user text not null,
  created_at timestamp with time zone not null,
  wanted_import integer default 0 not null,
  wanted_gone boolean default false not null,
  observed_import integer default 0 not null,
  observed_state text default 'absent'::text not null,
  observed_progress jsonb,
  observed_error jsonb,
  observed_manifest jsonb,
  reserved_bytes bigint default 0 not null,
  constraint images_pkey PRIMARY KEY (id),
  constraint images_environment_id_name_key UNIQUE NULLS NOT DISTINCT (environment_id, name),
  constraint images_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint images_observed_state_check CHECK (observed_state = ANY (ARRAY['absent'::text, 'importing'::text, 'present'::text, 'failed'::text])),
  constraint images_ready_signal_check CHECK (ready_signal = ANY (ARRAY['guest'::text, 'process'::text])),
  constraint images_reserved_bytes_check CHECK (reserved_bytes >= 0)
);

create table installation (
  is_only boolean default true not null,
  id text not null,
  secrets_digest bytea not null,
  directory_mark text not null,
  data_dir text not null,
  host text not null,
  started_at timestamp with time zone not null,
  constraint installation_pkey PRIMARY KEY (is_only),
  constraint installation_is_only_check CHECK (is_only)
);

create table instances (
  id text not null,
  environment_id text not null,
  mode text not null,
  ordinal bigint generated always as identity not null,
  region text not null,
  name text not null,
  hostname text not null,
  image text not null,
  image_id text not null,
  subnet_id text not null,
  private_ip inet not null,
  mac macaddr not null,
  ports integer[] not null,
  ssh_public_keys text[] not null,
  ssh_user text not null,
  user_data bytea,
  deployment_id text,
  tags jsonb not null,
  auto_recovery boolean not null,
  termination_protection boolean not null,
  ready_timeout_seconds integer not null,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  expires_at timestamp with time zone,
  wanted_power text not null,
  wanted_gone boolean default false not null,
  wanted_run integer not null,
  wanted_stop integer default 0 not null,
  wanted_disk integer not null,
  wanted_plan text not null,
  wanted_vcpus integer not null,
  wanted_memory_bytes bigint not null,
  wanted_disk_bytes bigint not null,
  wanted_public_ip inet,
  wanted_activity text not null,
  wanted_at timestamp with time zone not null,
  wanted_stop_timeout_seconds integer default 60 not null,
  wanted_request_id text,
  observed_power text default 'absent'::text not null,
  observed_run integer default 0 not null,
  observed_stop integer default 0 not null,
  observed_ready boolean default false not null,
  observed_ready_run integer default 0 not null,
  observed_disk integer default 0 not null,
  observed_ready_disk integer default 0 not null,
  observed_vcpus integer default 0 not null,
  observed_memory_bytes bigint default 0 not null,
  observed_disk_bytes bigint default 0 not null,
  observed_public_ip inet,
  observed_ports jsonb default '[]'::jsonb not null,
  observed_started_at timestamp with time zone,
  observed_recovering boolean default false not null,
  observed_recovery_attempts integer default 0 not null,
  observed_recoveries integer default 0 not null,
  observed_problem jsonb,
  status text not null,
  status_reason jsonb,
  version integer default 1 not null,
  ready_at timestamp with time zone,
  terminated_at timestamp with time zone,
  created_by text,
  budget_id text,
  observed_expired boolean default false not null,
  wanted_size_before jsonb,
  recovery_priority integer default 50 not null,
  observed_ready_at timestamp with time zone,
  observed_boot text,
  observed_failures jsonb,
  recovery jsonb,
  constraint instances_pkey PRIMARY KEY (id),
  constraint instances_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets(id),
  constraint instances_created_by_fkey FOREIGN KEY (created_by) REFERENCES api_keys(id),
  constraint instances_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint instances_environment_id_subnet_id_fkey FOREIGN KEY (environment_id, subnet_id) REFERENCES subnets(environment_id, id),
  constraint instances_image_id_fkey FOREIGN KEY (image_id) REFERENCES images(id),
  constraint instances_mode_check CHECK (mode = ANY (ARRAY['live'::text, 'test'::text])),
  constraint instances_observed_power_check CHECK (observed_power = ANY (ARRAY['absent'::text, 'stopped'::text, 'running'::text, 'off'::text, 'crashed'::text, 'paused'::text])),
  constraint instances_recovery_priority_check CHECK (recovery_priority >= 0 AND recovery_priority <= 100),
  constraint instances_wanted_activity_check CHECK (wanted_activity = ANY (ARRAY['provisioning'::text, 'starting'::text, 'rebooting'::text, 'resizing'::text])),
  constraint instances_wanted_power_check CHECK (wanted_power = ANY (ARRAY['running'::text, 'stopped'::text]))
);

create table migrations (
  number integer not null,
  name text not null,
  digest text not null,
  applied_at timestamp with time zone default now() not null,
  constraint migrations_pkey PRIMARY KEY (number)
);

create table projects (
  id text not null,
  name text not null,
  created_at timestamp with time zone not null,
  ordinal bigint generated always as identity not null,
  wanted_gone_at timestamp with time zone,
  constraint projects_pkey PRIMARY KEY (id)
);

create unlogged table rate_limits (
  bucket text not null,
  environment_id text not null,
  tat double precision not null,
  lent_slot bigint not null,
  lent integer not null,
  lent_before integer not null,
  constraint rate_limits_pkey PRIMARY KEY (bucket)
);

create table readiness (
  is_only boolean default true not null,
  checked_at timestamp with time zone not null,
  constraint readiness_pkey PRIMARY KEY (is_only),
  constraint readiness_is_only_check CHECK (is_only)
);

create table recoveries (
  environment_id text not null,
  instance_id text not null,
  number integer not null,
  cause text not null,
  detected_at timestamp with time zone not null,
  down_since timestamp with time zone,
  attempts integer not null,
  started_at timestamp with time zone,
  ended_at timestamp with time zone,
  outcome text,
  constraint recoveries_pkey PRIMARY KEY (environment_id, instance_id, number),
  constraint recoveries_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint recoveries_cause_check CHECK (cause = ANY (ARRAY['process_died'::text, 'guest_panicked'::text, 'guest_hung'::text, 'host_rebooted'::text, 'disk_error'::text])),
  constraint recoveries_outcome_check CHECK (outcome = ANY (ARRAY['recovered'::text, 'failed'::text, 'cancelled'::text]))
);

create table requests (
  ordinal bigint not null,
  id text not null,
  environment_id text,
  request_id text not null,
  "time" timestamp with time zone not null,
  key_id text,
  method text not null,
  route text,
  resource text,
  status smallint not null,
  code text,
  duration_ms double precision not null,
  address text not null,
  user_agent text,
  aborted boolean not null,
  sample_rate real not null,
  transactions jsonb,
  constraint requests_pkey PRIMARY KEY (id, ordinal)
) partition by RANGE (ordinal);

create table simulated_machines (
  id text not null,
  environment_id text not null,
  machine jsonb not null,
  constraint simulated_machines_pkey PRIMARY KEY (id)
);

create table spans (
  environment_id text not null,
  request_id text not null,
  resource text not null,
  started_at timestamp with time zone not null,
  name text not null,
  kind text not null,
  duration_ms double precision not null,
  status text not null,
  waits_for text,
  detail jsonb default '{}'::jsonb not null,
  constraint spans_pkey PRIMARY KEY (environment_id, request_id, resource, started_at, name)
) partition by RANGE (started_at);

create table ssh_keys (
  environment_id text not null,
  id text not null,
  ordinal bigint generated always as identity not null,
  name text not null,
  public_key text not null,
  fingerprint text not null,
  is_default boolean default false not null,
  created_at timestamp with time zone not null,
  constraint ssh_keys_pkey PRIMARY KEY (environment_id, id),
  constraint ssh_keys_environment_id_fingerprint_key UNIQUE (environment_id, fingerprint),
  constraint ssh_keys_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id)
);

create table subnets (
  environment_id text not null,
  id text not null,
  ordinal bigint generated always as identity not null,
  region text not null,
  name text not null,
  range cidr not null,
  pool_id text not null,
  segment integer,
  is_default boolean default false not null,
  created_at timestamp with time zone not null,
  constraint subnets_pkey PRIMARY KEY (environment_id, id),
  constraint subnets_pool_id_key UNIQUE (pool_id),
  constraint subnets_segment_key UNIQUE (segment),
  constraint subnets_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint subnets_pool_id_fkey FOREIGN KEY (pool_id) REFERENCES address_pools(id)
);

create table sweep_suspects (
  sweep text not null,
  id text not null,
  constraint sweep_suspects_pkey PRIMARY KEY (sweep, id)
);

create table webhook_attempts (
  environment_id text not null,
  delivery_id text not null,
  number integer not null,
  started_at timestamp with time zone not null,
  duration_ms double precision not null,
  dns_ms double precision,
  connect_ms double precision,
  first_byte_ms double precision,
  request_headers jsonb not null,
  response_status smallint,
  response_headers jsonb,
  response_body text,
  error text,
  constraint webhook_attempts_pkey PRIMARY KEY (delivery_id, number),
  constraint webhook_attempts_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES webhook_deliveries(id) ON DELETE CASCADE
);

create table webhook_deliveries (
  environment_id text not null,
  id text not null,
  ordinal bigint generated always as identity not null,
  webhook_id text not null,
  event_id text not null,
  event_sequence bigint not null,
  event_type text not null,
  cause text not null,
  status text default 'pending'::text not null,
  reason text,
  attempts integer default 0 not null,
  due_at timestamp with time zone,
  created_at timestamp with time zone not null,
  finished_at timestamp with time zone,
  recorded_at timestamp with time zone default clock_timestamp() not null,
  constraint webhook_deliveries_pkey PRIMARY KEY (id),
  constraint webhook_deliveries_cause_check CHECK (cause = ANY (ARRAY['event'::text, 'resend'::text, 'replay'::text, 'ping'::text])),
  constraint webhook_deliveries_status_check CHECK (status = ANY (ARRAY['pending'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text]))
);

create table webhooks (
  environment_id text not null,
  id text not null,
  ordinal bigint generated always as identity not null,
  url text not null,
  events text[] not null,
  description text not null,
  wanted_enabled boolean not null,
  wanted_gone boolean default false not null,
  secret bytea not null,
  previous_secret bytea,
  previous_secret_until timestamp with time zone,
  key_id text not null,
  observed_disabled_reason text,
  observed_disabled_at timestamp with time zone,
  observed_failing_since timestamp with time zone,
  observed_failed_at timestamp with time zone,
  observed_throttled boolean default false not null,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  version integer default 1 not null,
  constraint webhooks_pkey PRIMARY KEY (id),
  constraint webhooks_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id),
  constraint webhooks_key_id_fkey FOREIGN KEY (key_id) REFERENCES api_keys(id),
  constraint webhooks_observed_disabled_reason_check CHECK (observed_disabled_reason = ANY (ARRAY['gone'::text, 'failing'::text, 'key_ended'::text]))
);

create table work (
  kind text not null,
  id text not null,
  environment_id text not null,
  due_at timestamp with time zone not null,
  not_before timestamp with time zone default '-infinity'::timestamp with time zone not null,
  wakes bigint default 1 not null,
  lease bigint default 0 not null,
  leased_by text,
  leased_until timestamp with time zone,
  attempts integer default 0 not null,
  last_error text,
  constraint work_pkey PRIMARY KEY (kind, id),
  constraint work_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES environments(id)
);

-- Indexes

CREATE INDEX addresses_instance ON public.addresses USING btree (instance_id);

CREATE INDEX api_keys_counted ON public.api_keys USING btree (environment_id, COALESCE(LEAST(expires_at, revoked_at), 'infinity'::timestamp with time zone)) WHERE (retires_at IS NULL);

CREATE INDEX api_keys_expiring ON public.api_keys USING btree (LEAST(expires_at, retires_at)) WHERE ((revoked_at IS NULL) AND (LEAST(expires_at, retires_at) IS DISTINCT FROM observed_ends_at));

CREATE INDEX api_keys_listed ON public.api_keys USING btree (environment_id, ordinal);

CREATE INDEX api_keys_replaces ON public.api_keys USING btree (replaces) WHERE (replaces IS NOT NULL);

CREATE INDEX audit_log_request ON public.audit_log USING btree (environment_id, request_id);

CREATE INDEX audit_log_resource ON public.audit_log USING btree (environment_id, resource, sequence);

CREATE INDEX events_request ON public.events USING btree (environment_id, request_id) WHERE (request_id IS NOT NULL);

CREATE INDEX events_resource ON public.events USING btree (environment_id, resource_id, sequence);

CREATE INDEX events_type ON public.events USING btree (environment_id, type, sequence);

CREATE INDEX idempotency_keys_age ON public.idempotency_keys USING btree (created_at);

CREATE INDEX instances_budget ON public.instances USING btree (budget_id) WHERE ((budget_id IS NOT NULL) AND (status <> 'terminated'::text));

CREATE INDEX instances_image ON public.instances USING btree (image_id) WHERE (status <> 'terminated'::text);

CREATE INDEX instances_listed ON public.instances USING btree (environment_id, ordinal) WHERE (status <> 'terminated'::text);

CREATE INDEX instances_name ON public.instances USING btree (environment_id, name);

CREATE INDEX instances_region ON public.instances USING btree (region) WHERE ((mode = 'live'::text) AND (status <> 'terminated'::text));

CREATE INDEX instances_subnet ON public.instances USING btree (environment_id, subnet_id) WHERE (status <> 'terminated'::text);

CREATE INDEX instances_tags ON public.instances USING gin (tags jsonb_path_ops);

CREATE INDEX instances_terminated ON public.instances USING btree (environment_id, ordinal) WHERE (status = 'terminated'::text);

CREATE INDEX requests_failed ON ONLY public.requests USING btree (environment_id, ordinal) WHERE (status >= 400);

CREATE INDEX requests_key ON ONLY public.requests USING btree (environment_id, key_id, ordinal);

CREATE INDEX requests_listed ON ONLY public.requests USING btree (environment_id, ordinal);

CREATE INDEX requests_request_id ON ONLY public.requests USING btree (environment_id, request_id, ordinal);

CREATE INDEX requests_resource ON ONLY public.requests USING btree (environment_id, resource, ordinal) WHERE (resource IS NOT NULL);

CREATE UNIQUE INDEX subnets_default ON public.subnets USING btree (environment_id, region) WHERE is_default;

CREATE INDEX webhook_deliveries_age ON public.webhook_deliveries USING btree (recorded_at);

CREATE INDEX webhook_deliveries_due ON public.webhook_deliveries USING btree (webhook_id, due_at, ordinal) WHERE ((status = 'pending'::text) AND (cause <> 'replay'::text));

CREATE INDEX webhook_deliveries_event ON public.webhook_deliveries USING btree (webhook_id, event_sequence);

CREATE INDEX webhook_deliveries_listed ON public.webhook_deliveries USING btree (webhook_id, ordinal);

CREATE INDEX webhook_deliveries_replayed ON public.webhook_deliveries USING btree (webhook_id, due_at, ordinal) WHERE ((status = 'pending'::text) AND (cause = 'replay'::text));

CREATE INDEX webhooks_listed ON public.webhooks USING btree (environment_id, ordinal);

CREATE INDEX work_due ON public.work USING btree (environment_id, due_at);

-- Functions

CREATE OR REPLACE FUNCTION public.all_environments()
 RETURNS TABLE(id text, project_id text, mode text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select e.id, e.project_id, e.mode from public.environments e
    where e.project_id is not null and public.belongs_to_operator(public.current_environment_id())
  $function$;

CREATE OR REPLACE FUNCTION public.belongs_to_operator(environment_id text)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select exists (
      select from public.environments e
      where e.id = environment_id and e.project_id = (select p.id from public.projects p order by p.ordinal limit 1))
  $function$;

CREATE OR REPLACE FUNCTION public.check_authority(caller_id text, granted text[], addresses text[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  if not exists (
    select from api_keys k where k.id = caller_id and (
      k.xmin = pg_current_xact_id()::xid
      or (coalesce(least(k.expires_at, k.retires_at, k.revoked_at), 'infinity') > clock_timestamp()
        and k.scopes = granted and k.allowed_addresses is not distinct from addresses))
  ) then
    raise exception using errcode = 'CN003', message = 'the key of the request has ended or has changed';
  end if;
end $function$;

CREATE OR REPLACE FUNCTION public.current_environment_id()
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$ select current_setting('cloudnexus.environment_id', true) $function$;

CREATE OR REPLACE FUNCTION public.deletable_environments(of_project text)
 RETURNS text[]
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select array_agg(e.id) from public.environments e join public.projects p on p.id = e.project_id
    where p.id = of_project and p.wanted_gone_at is not null
      and not exists (
        select from public.instances i join public.environments o on o.id = i.environment_id
        where o.project_id = p.id and i.status <> 'terminated')
  $function$;

CREATE OR REPLACE FUNCTION public.environment_now(environment environments)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
AS $function$ select coalesce(environment.clock_frozen_at, now() + environment.clock_offset) $function$;

CREATE OR REPLACE FUNCTION public.environment_now(environment_id text)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
AS $function$ select coalesce(e.clock_frozen_at, now() + e.clock_offset) from public.environments e where e.id = environment_id $function$;

CREATE OR REPLACE FUNCTION public.exchange_rate_limits(asked jsonb, at double precision DEFAULT NULL::double precision)
 RETURNS TABLE(bucket text, sold integer, lent integer, slot bigint, available double precision)
 LANGUAGE plpgsql
AS $function$
declare
  ask record;
  state rate_limits;
  now_s double precision;
  held integer;
  free integer;
begin
  for ask in
    select * from jsonb_to_recordset(asked) as (bucket text, environment_id text, rate double precision, burst integer,
      need integer, extra integer, returned integer, ended_slot bigint, ended_size integer)
  loop
    select * into state from rate_limits r where r.bucket = ask.bucket for update;
    if not found then
      insert into rate_limits values (ask.bucket, ask.environment_id, '-infinity', 0, 0, 0) on conflict do nothing;
      select * into state from rate_limits r where r.bucket = ask.bucket for update;
    end if;
    -- Read after the lock, because the previous holder may have been served just before.
    now_s := coalesce(at, extract(epoch from clock_timestamp()));
    slot := floor(now_s);

    -- The clock was set back: the bucket stays as full as it was.
    if slot < state.lent_slot then
      state.tat := state.tat - (state.lent_slot - now_s);
    end if;
    -- Tokens that are lent count as still in the bucket: it is not refilled beyond its size.
    state.tat := least(
      greatest(
        state.tat,
        least(now_s, state.lent_slot + 1) + (state.lent + state.lent_before) / ask.rate,
        least(now_s, state.lent_slot + 2) + state.lent / ask.rate,
        now_s),
      now_s + (ask.burst + 1e-4) / ask.rate);
    if slot <> state.lent_slot then
      state.lent_before := case
        when slot = state.lent_slot + 1 then state.lent
        when slot < state.lent_slot then state.lent + state.lent_before
        else 0 end;
      state.lent := 0;
    end if;
    if ask.ended_slot = slot then
      state.lent := greatest(0, state.lent - ask.ended_size);
    elsif ask.ended_slot = slot - 1 then
      state.lent_before := greatest(0, state.lent_before - ask.ended_size);
    end if;
    held := state.lent + state.lent_before;
    state.tat := greatest(state.tat - ask.returned / ask.rate, now_s + held / ask.rate);

    available := ask.burst - (state.tat - now_s) * ask.rate;
    free := floor(available + 1e-4);
    sold := greatest(0, least(ask.need, free));
    lent := greatest(0, least(ask.extra, floor(ask.burst / 20.0)::integer - held, (free - sold) / 20));
    available := available - sold - lent;
    update rate_limits r
      set tat = state.tat + (sold + exchange_rate_limits.lent) / ask.rate, lent_slot = slot,
          lent = state.lent + exchange_rate_limits.lent, lent_before = state.lent_before
      where r.bucket = ask.bucket;
    bucket := ask.bucket;
    return next;
  end loop;
end $function$;

CREATE OR REPLACE FUNCTION public.finish_project_deletion(of_project text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.flush_work(kinds text[], ids text[], environment_ids text[], leased_kind text, leased_id text, expected_lease bigint)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
begin
  if leased_kind is not null then
    perform wake_keys(array_agg(k.kind), array_agg(k.id), array_agg(k.environment_id))
    from unnest(kinds, ids, environment_ids) as k(kind, id, environment_id)
    where (k.kind, k.id) < (leased_kind, leased_id);
    perform from work w where w.kind = leased_kind and w.id = leased_id and w.lease = expected_lease
    for no key update;
    if not found then
      raise exception using errcode = 'CN002', message = format('the lease of %s %s was lost', leased_kind, leased_id);
    end if;
  end if;
  perform wake_keys(array_agg(k.kind), array_agg(k.id), array_agg(k.environment_id))
  from unnest(kinds, ids, environment_ids) as k(kind, id, environment_id)
  where leased_kind is null or (k.kind, k.id) >= (leased_kind, leased_id);
  return 1;
end $function$;

CREATE OR REPLACE FUNCTION public.free_address(of_pool text, first_offset bigint)
 RETURNS inet
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
  $function$;

CREATE OR REPLACE FUNCTION public.free_subnet_segment()
 RETURNS integer
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select segment
    from (select nextval('public.subnet_segments')::integer as segment from generate_series(1, 16000)) next
    where not exists (select from public.subnets s where s.segment = next.segment) limit 1
  $function$;

CREATE OR REPLACE FUNCTION public.import_catalogue_image(image_id text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  update public.images i set wanted_import = i.wanted_import + 1
  where i.id = image_id and i.environment_id is null and i.observed_state in ('absent', 'failed')
    and i.observed_import = i.wanted_import;
  return found;
end $function$;

CREATE OR REPLACE FUNCTION public.instances_waiting_for_image(awaited_image_id text)
 RETURNS TABLE(id text, environment_id text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select i.id, i.environment_id from public.instances i
    where i.image_id = awaited_image_id and i.status = 'provisioning'
  $function$;

CREATE OR REPLACE FUNCTION public.instances_waiting_to_recover(of_instance text)
 RETURNS TABLE(id text, environment_id text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select i.id, i.environment_id
    from public.instances mine join public.instances i on i.region = mine.region and i.mode = mine.mode and i.id <> mine.id
    where mine.id = of_instance and mine.environment_id = public.current_environment_id()
      and (i.mode = 'live' or i.environment_id = mine.environment_id)
      and i.status <> 'terminated' and i.observed_recovering and i.recovery ->> 'cause' = 'host_rebooted'
      and i.recovery ->> 'outcome' is null and i.recovery ->> 'attempts' = '0'
  $function$;

CREATE OR REPLACE FUNCTION public.is_booting_after_reboot(i instances)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select i.recovery ->> 'cause' = 'host_rebooted' and i.recovery ->> 'outcome' is null
      and i.recovery ->> 'attempts' <> '0'
      and (i.observed_power = 'running' or i.observed_run < i.wanted_run + i.observed_recoveries)
  $function$;

CREATE OR REPLACE FUNCTION public.isolate_table(target regclass, engine text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format('create policy installation on %s to cn_engine, current_user using (true)', target);
  if engine is not null then
    execute format('grant %s on %s to cn_engine', engine, target);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION public.isolate_tenant_table(target regclass, app text DEFAULT 'select, insert, update, delete'::text, engine text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.keep_request_days(keep_days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '2s'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.lock_environments(ids text[])
 RETURNS SETOF text
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ select e.id from public.environments e where e.id = any(ids) order by e.id for key share $function$;

CREATE OR REPLACE FUNCTION public.open_environment_head()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  insert into environment_heads (environment_id, of_operator) values (new.id, belongs_to_operator(new.id));
  return null;
end $function$;

CREATE OR REPLACE FUNCTION public.project_environments(of_project text)
 RETURNS TABLE(live text, test text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select max(e.id) filter (where e.mode = 'live'), max(e.id) filter (where e.mode = 'test')
    from public.environments e
    where e.project_id = of_project and public.belongs_to_operator(public.current_environment_id())
  $function$;

CREATE OR REPLACE FUNCTION public.project_quotas(of_project text)
 RETURNS jsonb
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select jsonb_object_agg(e.mode, h.quota)
    from public.environments e join public.environment_heads h on h.environment_id = e.id
    where e.project_id = of_project and public.belongs_to_operator(public.current_environment_id())
  $function$;

CREATE OR REPLACE FUNCTION public.purge_project(of_project text, batch integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.queue_deliveries(in_environment text, event_ids text[], sequences bigint[], types text[], resource_ids text[], at timestamp with time zone)
 RETURNS text[]
 LANGUAGE sql
AS $function$
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
    select coalesce(array_agg(distinct webhook_id), '{}') from queued
  $function$;

CREATE OR REPLACE FUNCTION public.recovery_turn(of_instance text, boot text, at_once integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  mine public.instances;
begin
  select * into mine from public.instances i
  where i.id = of_instance and i.environment_id = public.current_environment_id();
  if not found then return false; end if;
  perform pg_advisory_xact_lock(hashtextextended('recovery ' || mine.region, 0));
  return (
    with others as (
      select i.* from public.instances i
      where i.region = mine.region and i.mode = mine.mode and i.id <> mine.id
        and (i.mode = 'live' or i.environment_id = mine.environment_id)
        and i.status in ('provisioning', 'running', 'starting', 'rebooting', 'resizing', 'recovering')
        and not exists (
          select from public.work w where w.kind = 'instance' and w.id = i.id and w.attempts > 2)
    )
    select
      (select count(*) from others i where public.is_booting_after_reboot(i.*::public.instances)) < at_once
      and not exists (
        select from others i
        where (i.recovery_priority, -i.ordinal) > (mine.recovery_priority, -mine.ordinal) and i.auto_recovery
          and (i.observed_boot <> boot or (
            i.recovery ->> 'cause' = 'host_rebooted' and i.recovery ->> 'outcome' is null
            and i.recovery ->> 'attempts' = '0'))
      )
  );
end $function$;

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  if tg_op = 'DELETE' then
    perform from public.environments e join public.projects p on p.id = e.project_id
    where e.id = old.environment_id and p.wanted_gone_at is not null;
    if found then return old; end if;
  end if;
  raise exception 'entries of % are never changed', tg_table_name;
end $function$;

CREATE OR REPLACE FUNCTION public.refuse_outbox(of_environment text, is_request boolean)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
begin
  perform from environment_heads h where h.environment_id = of_environment and not (h.closed and is_request);
  if not found then raise exception 'the project is being deleted' using errcode = 'CN004'; end if;
  raise exception 'the project would use more than it may' using errcode = 'CN001';
end $function$;

CREATE OR REPLACE FUNCTION public.reserved_image_bytes()
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select coalesce(sum(i.reserved_bytes), 0)::bigint from public.images i
    where i.reserved_bytes > 0 and (i.observed_state <> 'present' or i.observed_import < i.wanted_import)
  $function$;

CREATE OR REPLACE FUNCTION public.running_imports(except_id text, OUT host integer, OUT project integer)
 RETURNS record
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select count(*)::integer, count(*) filter (where e.project_id = own.project_id)::integer
    from public.images i left join public.environments e on e.id = i.environment_id
      left join public.environments own on own.id = public.current_environment_id()
    where i.id <> except_id and i.observed_state = 'importing' and i.observed_import = i.wanted_import
      and not i.wanted_gone
  $function$;

CREATE OR REPLACE FUNCTION public.set_project_quota(of_project text, of_mode text, new_quota jsonb)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    update public.environment_heads h set quota = new_quota from public.environments e
    where e.id = h.environment_id and e.project_id = of_project and e.mode = of_mode
      and public.belongs_to_operator(public.current_environment_id())
  $function$;

CREATE OR REPLACE FUNCTION public.used_capacity(in_region text, except_id text, overhead_bytes bigint)
 RETURNS TABLE(vcpus bigint, memory_bytes bigint, disk_bytes bigint)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select coalesce(sum(i.wanted_vcpus), 0)::bigint, coalesce(sum(i.wanted_memory_bytes + overhead_bytes), 0)::bigint,
      coalesce(sum(i.wanted_disk_bytes), 0)::bigint
    from public.instances i
    where i.region = in_region and i.mode = 'live' and i.status <> 'terminated' and i.id is distinct from except_id
  $function$;

CREATE OR REPLACE FUNCTION public.wake_keys(kinds text[], ids text[], environment_ids text[])
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    insert into public.work as w (kind, id, environment_id, due_at)
    select k.kind, k.id, k.environment_id, public.environment_now(k.environment_id)
    from (select distinct * from unnest(kinds, ids, environment_ids) as k(kind, id, environment_id)) k
    order by k.kind, k.id
    on conflict (kind, id) do update set
      due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1
  $function$;

-- Triggers

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER open_head AFTER INSERT ON environments FOR EACH ROW EXECUTE FUNCTION open_environment_head();

-- Row-level security

alter table address_pools enable and force row level security;

create policy installation on address_pools as permissive for all to current_user, cn_engine using (true);

create policy tenant_adds on address_pools as permissive for insert to cn_app with check ((environment_id = current_environment_id()));

create policy tenant_reads on address_pools as permissive for select to cn_app using (((environment_id IS NULL) OR (environment_id = current_environment_id())));

create policy tenant_removes on address_pools as permissive for delete to cn_app using ((environment_id = current_environment_id()));

alter table addresses enable and force row level security;

create policy installation on addresses as permissive for all to current_user, cn_engine using (true);

create policy tenant on addresses as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table api_keys enable and force row level security;

create policy installation on api_keys as permissive for all to current_user, cn_engine using (true);

create policy tenant on api_keys as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table audit_log enable and force row level security;

create policy installation on audit_log as permissive for all to current_user, cn_engine using (true);

create policy tenant on audit_log as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table budgets enable and force row level security;

create policy installation on budgets as permissive for all to current_user, cn_engine using (true);

create policy tenant on budgets as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table environment_heads enable and force row level security;

create policy installation on environment_heads as permissive for all to current_user, cn_engine using (true);

create policy tenant on environment_heads as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table environments enable and force row level security;

create policy installation on environments as permissive for all to current_user, cn_engine using (true);

create policy tenant on environments as permissive for all to cn_app using ((id = current_environment_id()));

alter table events enable and force row level security;

create policy installation on events as permissive for all to current_user, cn_engine using (true);

create policy tenant on events as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table idempotency_keys enable and force row level security;

create policy installation on idempotency_keys as permissive for all to current_user, cn_engine using (true);

create policy tenant on idempotency_keys as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table images enable and force row level security;

create policy installation on images as permissive for all to current_user, cn_engine using (true);

create policy tenant_adds on images as permissive for insert to cn_app with check ((environment_id = current_environment_id()));

create policy tenant_changes on images as permissive for update to cn_app using (((environment_id IS NULL) OR (environment_id = current_environment_id()))) with check ((COALESCE(environment_id, 'env_system'::text) = current_environment_id()));

create policy tenant_reads on images as permissive for select to cn_app using (((environment_id IS NULL) OR (environment_id = current_environment_id())));

create policy tenant_removes on images as permissive for delete to cn_app using ((environment_id = current_environment_id()));

alter table installation enable and force row level security;

create policy installation on installation as permissive for all to current_user, cn_engine using (true);

alter table instances enable and force row level security;

create policy installation on instances as permissive for all to current_user, cn_engine using (true);

create policy tenant on instances as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table migrations enable and force row level security;

create policy installation on migrations as permissive for all to current_user, cn_engine using (true);

alter table projects enable and force row level security;

create policy installation on projects as permissive for all to current_user, cn_engine using (true);

create policy operator on projects as permissive for all to cn_app using (belongs_to_operator(current_environment_id()));

create policy tenant on projects as permissive for all to cn_app using ((id = ( SELECT e.project_id
   FROM environments e
  WHERE (e.id = current_environment_id()))));

alter table rate_limits enable and force row level security;

create policy installation on rate_limits as permissive for all to current_user, cn_engine using (true);

alter table readiness enable and force row level security;

create policy installation on readiness as permissive for all to current_user, cn_engine using (true);

alter table recoveries enable and force row level security;

create policy installation on recoveries as permissive for all to current_user, cn_engine using (true);

create policy tenant on recoveries as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table requests enable and force row level security;

create policy installation on requests as permissive for all to current_user, cn_engine using (true);

create policy operator on requests as permissive for select to cn_app using (( SELECT ((current_setting('cloudnexus.all_projects'::text, true) = 'on'::text) AND belongs_to_operator(current_environment_id()))));

create policy tenant on requests as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table simulated_machines enable and force row level security;

create policy installation on simulated_machines as permissive for all to current_user, cn_engine using (true);

create policy tenant on simulated_machines as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table spans enable and force row level security;

create policy installation on spans as permissive for all to current_user, cn_engine using (true);

create policy tenant on spans as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table ssh_keys enable and force row level security;

create policy installation on ssh_keys as permissive for all to current_user, cn_engine using (true);

create policy tenant on ssh_keys as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table subnets enable and force row level security;

create policy installation on subnets as permissive for all to current_user, cn_engine using (true);

create policy tenant on subnets as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table sweep_suspects enable and force row level security;

create policy installation on sweep_suspects as permissive for all to current_user, cn_engine using (true);

alter table webhook_attempts enable and force row level security;

create policy installation on webhook_attempts as permissive for all to current_user, cn_engine using (true);

create policy tenant on webhook_attempts as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table webhook_deliveries enable and force row level security;

create policy installation on webhook_deliveries as permissive for all to current_user, cn_engine using (true);

create policy tenant on webhook_deliveries as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table webhooks enable and force row level security;

create policy installation on webhooks as permissive for all to current_user, cn_engine using (true);

create policy tenant on webhooks as permissive for all to cn_app using ((environment_id = current_environment_id()));

alter table work enable and force row level security;

create policy installation on work as permissive for all to current_user, cn_engine using (true);

create policy tenant on work as permissive for all to cn_app using ((environment_id = current_environment_id()));
