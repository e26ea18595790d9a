-- Two halves, two words: columns that begin with wanted_ are written by wishes (the API), columns that begin with
-- observed_ by the reconciler that looks at the machine. Every row belongs to an environment, which has a clock:
-- no domain column has a default of now(), because in a test environment time is its owner's.

create table projects (
  id text primary key,
  name text not null,
  created_at timestamptz not null
);

create table environments (
  id text primary key,
  project_id text references projects,
  -- 'system' holds the installation's own work (catalogue images, sweeps) and belongs to no project.
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

-- The number of an environment's last event. The last statement of a transaction raises it, so numbers rise in the order
-- of commits without gaps. A table of its own, because every insert of a row with a foreign key takes a share lock on its
-- environment: a row that is shared and updated by the same transactions makes all waiters wake at every commit.
create table environment_heads (
  environment_id text primary key references environments,
  sequence bigint not null default 0
) with (fillfactor = 10);

create function open_environment_head() returns trigger language plpgsql
  as $$ begin insert into environment_heads (environment_id) values (new.id); return null; end $$;
create trigger open_head after insert on environments for each row execute function open_environment_head();

-- Keys that need a look, never payloads. due_at is in the environment's time; leases and not_before are real time.
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
  -- HMAC-SHA-256 with a pepper that is not in the database; the key itself is nowhere.
  digest bytea not null unique,
  prefix text not null,
  scopes text[] not null,
  created_at timestamptz not null,
  expires_at timestamptz,
  revoked_at timestamptz
);

-- Addresses are handed out from pools; a row of addresses is the reservation, and its key keeps it single.
create table address_pools (
  id text primary key,
  range cidr not null
);

-- Each ticket falls on one address of a range; see addresses/store.ts.
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
  -- Number of the private network on the host, for live subnets only.
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
  -- Null: of the installation's catalogue, seen by every environment.
  environment_id text references environments,
  ordinal bigint generated always as identity,
  name text not null,
  description text not null,
  -- Where it comes from: a recipe, a publisher, an address with its checksum, or an upload.
  source jsonb not null,
  ready_signal text not null check (ready_signal in ('guest', 'process')),
  ssh_user text not null,
  created_at timestamptz not null,
  -- A number that is raised when somebody needs the image on this host; the importer brings it.
  wanted_import integer not null default 0,
  wanted_gone boolean not null default false,
  observed_import integer not null default 0,
  observed_state text not null default 'absent' check (observed_state in ('absent', 'importing', 'present', 'failed')),
  observed_progress jsonb,
  observed_error jsonb,
  -- What the importer found: boot files, seed, size.
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
  -- Sealed; see lib/secret-box.ts.
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
  -- Numbers make wishes comparable with what was seen: each start, stop and rebuild raises its own.
  wanted_run integer not null,
  wanted_stop integer not null default 0,
  wanted_disk integer not null,
  wanted_plan text not null,
  wanted_vcpus integer not null,
  wanted_memory_bytes bigint not null,
  wanted_disk_bytes bigint not null,
  wanted_public_ip inet,
  -- The public status while the wish is not met yet.
  wanted_activity text not null check (wanted_activity in ('provisioning', 'starting', 'rebooting', 'resizing')),
  wanted_at timestamptz not null,
  wanted_stop_timeout_seconds integer not null default 60,
  wanted_request_id text,

  observed_power text not null default 'absent'
    check (observed_power in ('absent', 'stopped', 'running', 'off', 'crashed', 'paused')),
  observed_run integer not null default 0,
  observed_stop integer not null default 0,
  -- Now: the guest of the current process has said that it is up.
  observed_ready boolean not null default false,
  -- The last run whose guest was up once; tells a crash from a machine that never came up.
  observed_ready_run integer not null default 0,
  observed_disk integer not null default 0,
  -- Disk number of which the guest has been up once: instance.ready is told once per disk.
  observed_ready_disk integer not null default 0,
  observed_vcpus integer not null default 0,
  observed_memory_bytes bigint not null default 0,
  observed_disk_bytes bigint not null default 0,
  observed_public_ip inet,
  observed_ports jsonb not null default '[]',
  observed_started_at timestamptz,
  observed_recovering boolean not null default false,
  observed_recovery_attempts integer not null default 0,
  -- Starts after failures, ever; with wanted_run they make the number of the run that should be there.
  observed_recoveries integer not null default 0,
  -- { code, message, run, disk }: why the wish with these numbers cannot be met.
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

-- The simulated driver's machines: what a hypervisor would know, kept where it survives a restart.
create table simulated_machines (
  id text primary key,
  environment_id text not null,
  machine jsonb not null
);
