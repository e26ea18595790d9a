/** Triggers that write down what really happened to rows and machines, whoever did it and whatever they say of it. */
import type { Sql } from '../db/database.ts'
import type { InstanceRow } from '../instances/row.ts'

/** One committed change of an instance's row; null: there was none, or there is none any more. */
export type Move = { id: string; before: InstanceRow | null; after: InstanceRow | null }
/** One start of a simulated machine. `replaced`: another run was on. */
export type Launch = { id: string; run: number; replaced: boolean }

/** Sets the probes up; once per database. */
export async function installProbes(owner: Sql): Promise<void> {
  await owner.unsafe(`
    create table probed_moves (n bigserial, environment_id text, id text, before jsonb, after jsonb);
    create index on probed_moves (environment_id);
    create table probed_launches (n bigserial, environment_id text, id text, run int, replaced boolean);
    create function probe_instance() returns trigger language plpgsql security definer as $$ begin
      insert into public.probed_moves (environment_id, id, before, after) values (
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
}

/** All changes of an environment's instances, in the order in which they were made. */
export async function movesOf(owner: Sql, environmentId: string): Promise<Move[]> {
  return owner<Move[]>`select id, before, after from probed_moves where environment_id = ${environmentId} order by n`
}

/** All starts of an environment's machines. */
export async function launchesOf(owner: Sql, environmentId: string): Promise<Launch[]> {
  return owner<
    Launch[]
  >`select id, run, replaced from probed_launches where environment_id = ${environmentId} order by n`
}
