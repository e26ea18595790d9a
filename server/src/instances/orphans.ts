/** What no instance uses any more: machines without a row and addresses without a holder. */
import type { Sql } from '../db/database.ts'
import type { Deps, Region } from '../deps.ts'
import type { OrphanSweep } from '../engine/orphan-sweep.ts'

/** Compares the machines of a region's driver with the instances of that region and environment. */
export function instanceOrphanSweep({ sql, clock }: Deps, region: Region, mode: 'live' | 'test'): OrphanSweep {
  const driver = region.drivers[mode]
  return {
    interval_seconds: mode === 'live' ? 30 : 3600,
    list: () => driver.list(),
    unknown: async (ids) => {
      const rows = await sql<{ id: string }[]>`
        select listed.id from unnest(${ids}::text[]) as listed(id)
        where not exists (select from instances i where i.id = listed.id and i.status <> 'terminated')`
      return rows.map((row) => row.id)
    },
    remove: async (id) => driver.delete({ id, environment_id: '', now: clock.now() }),
  }
}

/**
 * Releases addresses that no instance wants or has, of all tenants. Returns how many. What was observed is true only while
 * no pass is due or running: a pass may be starting a machine with the address.
 */
export async function releaseUnusedAddresses(sql: Sql): Promise<number> {
  const unwanted = await sql`
    delete from addresses a using instances i join work w on w.kind = 'instance' and w.id = i.id
    where a.instance_id = i.id and w.leased_until is null and w.due_at > environment_now(i.environment_id)
      and a.address <> i.private_ip and a.address is distinct from i.wanted_public_ip
      and a.address is distinct from i.observed_public_ip`
  const ownerless = await sql`
    delete from addresses a where not exists (
      select from instances i where i.id = a.instance_id and i.status <> 'terminated')`
  return unwanted.count + ownerless.count
}
