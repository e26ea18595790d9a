import { recountBudgets } from '../budgets/store.ts'
import type { Deps, Region } from '../deps.ts'
import type { Sweep } from '../engine/sweep.ts'

/** Compares the machines of a region's driver with the instances of that region and environment. */
export function instanceSweep(deps: Deps, region: Region, mode: 'live' | 'test'): Sweep {
  const driver = region.drivers[mode]
  // The engine's own connections: a host's machines are of many tenants.
  const { sql } = deps
  return {
    interval_seconds: mode === 'live' ? 30 : 3600,
    list: () => driver.list(),
    unknown: async (ids) => {
      const rows = await sql<{ id: string }[]>`
        select listed.id from unnest(${ids}::text[]) as listed(id)
        where not exists (select from instances i where i.id = listed.id and i.status <> 'terminated')`
      return rows.map((row) => row.id)
    },
    remove: async (id) => driver.delete({ id, environment_id: '', now: deps.clock.now() }),
    tidy: async () => {
      await recountBudgets(sql)
      await sql`
        select wake_keys(array_agg('instance'::text), array_agg(i.id), array_agg(i.environment_id)) from instances i
        where i.region = ${region.id} and i.mode = ${mode}
          and not exists (select from work w where w.kind = 'instance' and w.id = i.id)`
      // What was observed is the truth only while no look is due or under way: a start with the address may be.
      await sql`
        delete from addresses a using instances i join work w on w.kind = 'instance' and w.id = i.id
        where a.instance_id = i.id and i.mode = ${mode} and i.region = ${region.id}
          and w.leased_until is null and w.due_at > environment_now(i.environment_id)
          and a.address <> i.private_ip and a.address is distinct from i.wanted_public_ip
          and a.address is distinct from i.observed_public_ip`
      await sql`
        delete from addresses a where not exists (
          select from instances i where i.id = a.instance_id and i.status <> 'terminated')`
    },
  }
}
