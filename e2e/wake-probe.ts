/**
 * Triggers that notice a lost wake: a key that was woken since its claim, and is given back to be looked at later. The
 * next regular look heals that, so nothing else would tell.
 */
import type { Query } from '../server/src/db/database.ts'

/** Sets the probe up, as the owner; once per database. */
export async function installWakeProbe(owner: Query): Promise<void> {
  await owner.unsafe(`
    create table probed_claims (kind text, id text, lease bigint, wakes bigint, primary key (kind, id));
    create table probed_lost_wakes (number bigint generated always as identity, what text);
    create function probe_work() returns trigger language plpgsql security definer as $$
      declare
        claimed bigint;
        was_lost boolean;
      begin
        if tg_op = 'UPDATE' and new.lease <> old.lease then
          insert into public.probed_claims values (new.kind, new.id, new.lease, new.wakes)
          on conflict (kind, id) do update set lease = excluded.lease, wakes = excluded.wakes;
          return null;
        end if;
        if tg_op = 'UPDATE' and (old.leased_by is null or new.leased_by is not null) then return null; end if;
        select wakes into claimed from public.probed_claims where kind = old.kind and id = old.id and lease = old.lease;
        was_lost := claimed <> old.wakes and (tg_op = 'DELETE'
          or new.due_at > public.environment_now(new.environment_id) or new.not_before > now());
        if was_lost then
          insert into public.probed_lost_wakes (what) values (format('%s %s was woken after its claim %s and rests', old.kind, old.id, old.lease));
        end if;
        return null;
      end $$;
    create trigger probe after update or delete on work for each row execute function probe_work();
  `)
}

/** The wakes that were lost so far. */
export async function lostWakes(owner: Query): Promise<string[]> {
  const rows = await owner<{ what: string }[]>`select what from probed_lost_wakes order by number`
  return rows.map(({ what }) => what)
}
