-- Recoveries: what is remembered of failures, a record of each recovery, and whose turn it is after a reboot of the host.

alter table instances
  add column recovery_priority integer not null default 50 check (recovery_priority between 0 and 100),
  -- Since when the guest that runs now is up.
  add column observed_ready_at timestamptz,
  -- Boot of the host at the last look.
  add column observed_boot text,
  -- { wish, run, cause, down_since, streak, at }: failures since the last start that somebody wished for.
  add column observed_failures jsonb,
  -- { number, cause, detected_at, … }: the last recovery, as its row below says.
  add column recovery jsonb;

-- They outlive their instance: the recovery objective is over all there were.
create table recoveries (
  environment_id text not null references environments,
  instance_id text not null,
  number integer not null,
  cause text not null
    check (cause in ('process_died', 'guest_panicked', 'guest_hung', 'host_rebooted', 'disk_error')),
  detected_at timestamptz not null,
  -- Null: nobody knows.
  down_since timestamptz,
  -- How often it was started again, and when last.
  attempts integer not null,
  started_at timestamptz,
  ended_at timestamptz,
  -- Null while it is under way.
  outcome text check (outcome in ('recovered', 'failed', 'cancelled')),
  primary key (environment_id, instance_id, number)
);
select isolate_tenant_table('recoveries', app => 'select, insert, update', engine => 'delete');
grant select (environment_id, detected_at) on recoveries to cn_engine;

-- Who has taken a turn after a reboot of the host: started again and not up yet. One that failed again and waits for its
-- next start has given it back.
create function is_booting_after_reboot(i instances) returns boolean
  language sql immutable set search_path = pg_catalog, pg_temp
  as $$
    select i.recovery ->> 'cause' = 'host_rebooted' and i.recovery ->> 'outcome' is null
      and i.recovery ->> 'attempts' <> '0'
      and (i.observed_power = 'running' or i.observed_run < i.wanted_run + i.observed_recoveries)
  $$;

-- Whether this instance may be started now: a turn is free, and nobody of a higher priority waits for one. Who waits: those
-- that were seen down, and those that should run and were not looked at since the host is up. One whose steps fail holds
-- nobody up. Who asks in a transaction that then takes the turn is alone in doing so until its end.
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

-- Wakes those who wait for their turn in the world of this instance, in the order of their ids, so that two of these cannot
-- lock each other out.
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
