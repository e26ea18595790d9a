-- Recoveries: the failures of an instance, a record of each recovery, and the recovery slots after a reboot of the host.

alter table instances
  add column recovery_priority integer not null default 50 check (recovery_priority between 0 and 100),
  -- Since when the current guest is ready.
  add column observed_ready_at timestamptz,
  -- Boot of the host at the last observation.
  add column observed_boot text,
  -- Failures since the last start that a client requested: { run, cause, down_since, streak, at, … }.
  add column observed_failures jsonb,
  -- { number, cause, detected_at, … }: the last recovery, as in its row below.
  add column recovery jsonb;

-- Rows outlive their instance, because the recovery objective covers all recoveries.
create table recoveries (
  environment_id text not null references environments,
  instance_id text not null,
  number integer not null,
  cause text not null
    check (cause in ('process_died', 'guest_panicked', 'guest_hung', 'host_rebooted', 'disk_error')),
  detected_at timestamptz not null,
  -- Null: unknown.
  down_since timestamptz,
  -- How often the instance was started again, and when last.
  attempts integer not null,
  started_at timestamptz,
  ended_at timestamptz,
  -- Null while the recovery is in progress.
  outcome text check (outcome in ('recovered', 'failed', 'cancelled')),
  primary key (environment_id, instance_id, number)
);
select isolate_tenant_table('recoveries', app => 'select, insert, update', engine => 'delete');
grant select (environment_id, detected_at) on recoveries to cn_engine;

-- Whether the instance holds a recovery slot after a reboot of the host: it was started again and is not ready yet. An
-- instance that failed again and waits for its next start has released its slot.
create function is_booting_after_reboot(i instances) returns boolean
  language sql immutable set search_path = pg_catalog, pg_temp
  as $$
    select i.recovery ->> 'cause' = 'host_rebooted' and i.recovery ->> 'outcome' is null
      and i.recovery ->> 'attempts' <> '0'
      and (i.observed_power = 'running' or i.observed_run < i.wanted_run + i.observed_recoveries)
  $$;

-- Whether this instance may be started now: a recovery slot is free, and no instance of a higher priority waits for one.
-- Instances that wait: those that were observed down, and those that should run and were not observed since the host
-- booted. An instance whose steps fail does not block others. A transaction that takes the slot holds a lock until it ends.
create function recovery_turn(of_instance text, boot text, at_once integer) returns boolean
  language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
  as $$
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
end $$;

-- Wakes the instances that wait for a recovery slot beside this instance, in the order of their IDs, so that two calls
-- cannot deadlock.
create function wake_instances_waiting_to_recover(of_instance text) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    insert into public.work as w (kind, id, environment_id, due_at)
    select 'instance', i.id, i.environment_id, public.environment_now(i.environment_id)
    from public.instances mine join public.instances i on i.region = mine.region and i.mode = mine.mode and i.id <> mine.id
    where mine.id = of_instance and mine.environment_id = public.current_environment_id()
      and (i.mode = 'live' or i.environment_id = mine.environment_id)
      and i.status <> 'terminated' and i.observed_recovering and i.recovery ->> 'cause' = 'host_rebooted'
      and i.recovery ->> 'outcome' is null and i.recovery ->> 'attempts' = '0'
    order by i.id
    on conflict (kind, id) do update set
      due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1
  $$;

revoke execute on function is_booting_after_reboot, recovery_turn, wake_instances_waiting_to_recover from public;
grant execute on function recovery_turn, wake_instances_waiting_to_recover to cn_app;
