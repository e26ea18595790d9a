/** Triggers that record the committed changes of rows, machines and work keys, independently of the product. */
import type { Query, Sql } from '../db/database.ts'
import type { InstanceRow } from '../instances/row.ts'

/** One committed change of an instance's row; null: the row did not exist yet, or was deleted. */
export type Change = { id: string; before: InstanceRow | null; after: InstanceRow | null }
/** One start of a simulated machine. `replaced`: another run was on. */
export type Launch = { id: string; run: number; replaced: boolean }
/** A key that was woken while it was leased, and is not due after its release; or it was deleted. */
export type LostWake = { kind: string; id: string; lease: number; gone: boolean }

/** Installs the probes, once per database. */
export async function installProbes(owner: Sql): Promise<void> {
  await owner.unsafe(`
    create table probed_changes (n bigserial primary key, environment_id text, id text, before jsonb, after jsonb);
    create index on probed_changes (environment_id);
    create index on probed_changes (id);
    create table probed_launches (n bigserial, environment_id text, id text, run int, replaced boolean);
    create function probe_instance() returns trigger language plpgsql security definer as $$ begin
      insert into public.probed_changes (environment_id, id, before, after) values (
        coalesce(new.environment_id, old.environment_id), coalesce(new.id, old.id), to_jsonb(old), to_jsonb(new));
      return null; end $$;
    create trigger probe after insert or update or delete on instances for each row execute function probe_instance();
    create function probe_machine() returns trigger language plpgsql security definer as $$ begin
      if new.machine ->> 'power' = 'running' and new.machine ->> 'run' is not null and
        (old is null or old.machine ->> 'power' not in ('running', 'paused') or old.machine ->> 'run' <> new.machine ->> 'run'
          or old.machine ->> 'started_at' is distinct from new.machine ->> 'started_at') then
        insert into public.probed_launches (environment_id, id, run, replaced) values (new.environment_id, new.id,
          (new.machine ->> 'run')::int, coalesce(old.machine ->> 'power' = 'running' and coalesce(
            least(old.machine ->> 'off_at', old.machine ->> 'crash_at') > new.machine ->> 'started_at', true), false));
      end if;
      return null; end $$;
    create trigger probe after insert or update on simulated_machines for each row execute function probe_machine();
  `)
  await owner.unsafe(WORK_PROBE)
}

/**
 * The transaction of a claim records the number of wakes, so a process that is killed later changes nothing here, and a key
 * that another process claims is compared with that claim. `now()` is that of the transaction that releases the key: a key
 * that is due immediately is due by then.
 */
const WORK_PROBE = `
  create table probed_claims (kind text, id text, lease bigint, wakes bigint, primary key (kind, id));
  create table probed_lost_wakes (n bigserial, environment_id text, kind text, id text, lease bigint, gone boolean);
  create function probe_work() returns trigger language plpgsql security definer as $$
  declare
    is_idle boolean;
  begin
    if tg_op = 'UPDATE' and new.lease > old.lease then
      insert into public.probed_claims values (new.kind, new.id, new.lease, new.wakes)
      on conflict (kind, id) do update set lease = excluded.lease, wakes = excluded.wakes;
      return null;
    end if;
    if old.leased_by is null or (tg_op = 'UPDATE' and new.leased_by is not null) then return null; end if;
    is_idle := tg_op = 'DELETE' or new.not_before > now() or new.due_at > public.environment_now(new.environment_id);
    insert into public.probed_lost_wakes (environment_id, kind, id, lease, gone)
      select old.environment_id, c.kind, c.id, c.lease, tg_op = 'DELETE' from public.probed_claims c
      where is_idle and c.kind = old.kind and c.id = old.id and c.lease = old.lease
        and c.wakes <> case tg_op when 'DELETE' then old.wakes else new.wakes end;
    return null;
  end $$;
  create trigger probe after update or delete on work for each row execute function probe_work();
`

/** All changes of an environment's instances, in order; with `since` only of instances that changed after this number. */
export async function changesOf(owner: Query, environmentId: string, since = 0): Promise<Change[]> {
  return owner<Change[]>`
    select id, before, after from probed_changes where environment_id = ${environmentId}
      and (${since}::bigint = 0 or id in (select id from probed_changes where n > ${since})) order by n`
}

/** The number of the last change. */
export async function lastChange(owner: Query): Promise<number> {
  const [row] = await owner<{ last: number }[]>`select coalesce(max(n), 0) as last from probed_changes`
  return row!.last
}

/** All starts of an environment's machines. */
export async function launchesOf(owner: Query, environmentId: string): Promise<Launch[]> {
  return owner<
    Launch[]
  >`select id, run, replaced from probed_launches where environment_id = ${environmentId} order by n`
}

/** All wakes of an environment's keys that were lost. */
export async function lostWakesOf(owner: Query, environmentId: string): Promise<LostWake[]> {
  return owner<LostWake[]>`
    select kind, id, lease, gone from probed_lost_wakes where environment_id = ${environmentId} order by n`
}
