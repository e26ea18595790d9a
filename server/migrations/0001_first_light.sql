-- The API writes the columns that begin with wanted_ (desired state); the reconcilers write those that begin with
-- observed_ (observed state). Every row belongs to an environment, which has its own clock: no domain column has a
-- default of now(), because the clock of a test environment can be frozen or advanced.

create table projects (
  id text primary key,
  name text not null,
  created_at timestamptz not null
);

create table environments (
  id text primary key,
  project_id text references projects,
  -- 'system' has the work of the installation itself (catalogue images, sweeps) and belongs to no project.
  mode text not null check (mode in ('live', 'test', 'system')),
  clock_frozen_at timestamptz,
  clock_offset interval not null default '0',
  unique nulls not distinct (project_id, mode),
  check ((mode = 'system') = (project_id is null))
);

create function environment_now(environment environments) returns timestamptz
  language sql stable
  as $$ select coalesce(environment.clock_frozen_at, now() + environment.clock_offset) $$;

create function environment_now(environment_id text) returns timestamptz
  language sql stable
  as $$ select coalesce(e.clock_frozen_at, now() + e.clock_offset) from environments e where e.id = environment_id $$;

-- The sequence number of an environment's last event. The last statement of a transaction increments it, so that
-- sequence numbers follow the order of commits without gaps. A separate table, because every insert of a row with a
-- foreign key takes a share lock on its environment, which would conflict with these updates.
create table environment_heads (
  environment_id text primary key references environments,
  sequence bigint not null default 0
) with (fillfactor = 10);

create function open_environment_head() returns trigger language plpgsql
  as $$ begin insert into environment_heads (environment_id) values (new.id); return null; end $$;
create trigger open_head after insert on environments for each row execute function open_environment_head();

-- Keys that are to be reconciled; no payloads. due_at is in the environment's time; leases and not_before are real time.
create table work (
  kind text not null,
  id text not null,
  environment_id text not null references environments,
  due_at timestamptz not null,
  not_before timestamptz not null default '-infinity',
  wakes bigint not null default 1,
  lease bigint not null default 0,
  leased_by text,
  leased_until timestamptz,
  attempts integer not null default 0,
  last_error text,
  primary key (kind, id)
);
create index work_due on work (environment_id, due_at);

create table events (
  environment_id text not null references environments,
  sequence bigint not null,
  id text not null unique,
  type text not null,
  resource_type text not null,
  resource_id text not null,
  request_id text,
  created_at timestamptz not null,
  data jsonb not null,
  primary key (environment_id, sequence)
);
create index events_resource on events (environment_id, resource_id, sequence);

create table api_keys (
  id text primary key,
  environment_id text not null references environments,
  name text not null,
  -- HMAC-SHA-256 with a pepper that is not in the database. The key itself is not stored.
  digest bytea not null unique,
  prefix text not null,
  scopes text[] not null,
  created_at timestamptz not null,
  expires_at timestamptz,
  revoked_at timestamptz
);

-- Pools of IP addresses. A row of addresses reserves an address; its primary key makes the reservation unique.
create table address_pools (
  id text primary key,
  range cidr not null
);

-- Each ticket stands for one address of a range; see addresses/store.ts.
create sequence address_tickets minvalue 0;

create table addresses (
  pool_id text not null references address_pools,
  address inet not null,
  instance_id text not null,
  primary key (pool_id, address)
);
create index addresses_instance on addresses (instance_id);

create sequence subnet_segments minvalue 1 maxvalue 16000 cycle;

create table subnets (
  environment_id text not null references environments,
  id text not null,
  ordinal bigint generated always as identity,
  region text not null,
  name text not null,
  range cidr not null,
  pool_id text not null unique references address_pools,
  -- Number of the private network on the host; null for test subnets.
  segment integer unique,
  is_default boolean not null default false,
  created_at timestamptz not null,
  primary key (environment_id, id)
);
create unique index subnets_default on subnets (environment_id, region) where is_default;

create table ssh_keys (
  environment_id text not null references environments,
  id text not null,
  ordinal bigint generated always as identity,
  name text not null,
  public_key text not null,
  fingerprint text not null,
  is_default boolean not null default false,
  created_at timestamptz not null,
  primary key (environment_id, id),
  unique (environment_id, fingerprint)
);

create table images (
  id text primary key,
  -- Null: an image of the catalogue, visible to every environment.
  environment_id text references environments,
  ordinal bigint generated always as identity,
  name text not null,
  description text not null,
  -- A recipe, a publisher, a URL with its checksum, or an upload.
  source jsonb not null,
  ready_signal text not null check (ready_signal in ('guest', 'process')),
  ssh_user text not null,
  created_at timestamptz not null,
  -- Incremented when the image is needed on this host; the importer then imports it.
  wanted_import integer not null default 0,
  wanted_gone boolean not null default false,
  observed_import integer not null default 0,
  observed_state text not null default 'absent' check (observed_state in ('absent', 'importing', 'present', 'failed')),
  observed_progress jsonb,
  observed_error jsonb,
  -- The result of the import: boot files, seed, size.
  observed_manifest jsonb,
  unique nulls not distinct (environment_id, name)
);

create table instances (
  id text primary key,
  environment_id text not null references environments,
  mode text not null check (mode in ('live', 'test')),
  ordinal bigint generated always as identity,
  region text not null,
  name text not null,
  hostname text not null,
  image text not null,
  image_id text not null references images,
  subnet_id text not null,
  private_ip inet not null,
  mac macaddr not null,
  ports integer[] not null,
  ssh_public_keys text[] not null,
  ssh_user text not null,
  -- Encrypted; see lib/secret-box.ts.
  user_data bytea,
  deployment_id text,
  tags jsonb not null,
  auto_recovery boolean not null,
  termination_protection boolean not null,
  ready_timeout_seconds integer not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  expires_at timestamptz,

  wanted_power text not null check (wanted_power in ('running', 'stopped')),
  wanted_gone boolean not null default false,
  -- Each start, stop and rebuild increments its number; comparing it with the observed number shows what is left to do.
  wanted_run integer not null,
  wanted_stop integer not null default 0,
  wanted_disk integer not null,
  wanted_plan text not null,
  wanted_vcpus integer not null,
  wanted_memory_bytes bigint not null,
  wanted_disk_bytes bigint not null,
  wanted_public_ip inet,
  -- The public status until the observed state matches the desired state.
  wanted_activity text not null check (wanted_activity in ('provisioning', 'starting', 'rebooting', 'resizing')),
  wanted_at timestamptz not null,
  wanted_stop_timeout_seconds integer not null default 60,
  wanted_request_id text,

  observed_power text not null default 'absent'
    check (observed_power in ('absent', 'stopped', 'running', 'off', 'crashed', 'paused')),
  observed_run integer not null default 0,
  observed_stop integer not null default 0,
  -- The guest of the current process has reported that it is ready.
  observed_ready boolean not null default false,
  -- The last run whose guest was ready. Distinguishes a crash from a machine that was never ready.
  observed_ready_run integer not null default 0,
  observed_disk integer not null default 0,
  -- The disk number whose guest has been ready: instance.ready is emitted once per disk.
  observed_ready_disk integer not null default 0,
  observed_vcpus integer not null default 0,
  observed_memory_bytes bigint not null default 0,
  observed_disk_bytes bigint not null default 0,
  observed_public_ip inet,
  observed_ports jsonb not null default '[]',
  observed_started_at timestamptz,
  observed_recovering boolean not null default false,
  observed_recovery_attempts integer not null default 0,
  -- Total number of starts after failures. Added to wanted_run, it is the number of the desired run.
  observed_recoveries integer not null default 0,
  -- { code, message, run, disk }: why the desired state with these numbers cannot be reached.
  observed_problem jsonb,

  status text not null,
  status_reason jsonb,
  version integer not null default 1,
  ready_at timestamptz,
  terminated_at timestamptz,
  foreign key (environment_id, subnet_id) references subnets
);
create index instances_listed on instances (environment_id, ordinal) where status <> 'terminated';
create index instances_terminated on instances (environment_id, ordinal) where status = 'terminated';
create index instances_name on instances (environment_id, name);
create index instances_tags on instances using gin (tags jsonb_path_ops);
create index instances_image on instances (image_id) where status <> 'terminated';
create index instances_subnet on instances (environment_id, subnet_id) where status <> 'terminated';
create index instances_region on instances (region) where mode = 'live' and status <> 'terminated';

-- The machines of the simulated driver. They are stored so that they survive a restart.
create table simulated_machines (
  id text primary key,
  environment_id text not null,
  machine jsonb not null
);
