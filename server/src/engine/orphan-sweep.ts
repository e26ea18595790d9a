/**
 * The orphan sweep compares what a driver lists with the rows, and removes what no row describes. It is a key of the work
 * table, so one process at a time does it.
 *
 * It removes only what it found on two sweeps in a row (`sweep_suspects`), and nothing after a listing that is empty or
 * failed: a fault of the listing must not delete machines.
 */
import type { Sql } from '../db/database.ts'
import type { Log } from '../lib/log.ts'
import type { Reconcile } from './loop.ts'

/** One comparison; its name is the ID of its key. */
export type OrphanSweep = {
  interval_seconds: number
  list(): Promise<{ id: string }[]>
  /** Those of these IDs that no row describes. */
  unknown(ids: string[]): Promise<string[]>
  remove(id: string): Promise<void>
}

/** Reconciles the keys `('sweep', <name>)`. */
export function orphanSweepReconciler(sql: Sql, log: Log, sweeps: Record<string, OrphanSweep>): Reconcile {
  return async ({ id: name }) => {
    const sweep = sweeps[name]
    if (!sweep) return { after_seconds: null }
    const listed = (await sweep.list()).map(({ id }) => id)
    const orphans = listed.length > 0 ? await sweep.unknown(listed) : []
    for (const id of await replaceSuspects(sql, name, orphans)) {
      log.warn({ sweep: name, id }, 'removing an orphan')
      await sweep.remove(id)
    }
    return { after_seconds: sweep.interval_seconds }
  }
}

/** Stores what this sweep found, and returns what the sweep before had found, too. */
async function replaceSuspects(sql: Sql, sweep: string, orphans: string[]): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`
    with cleared as (delete from sweep_suspects where sweep = ${sweep} and not id = any(${orphans})),
      added as (
        insert into sweep_suspects (sweep, id) select ${sweep}, id from unnest(${orphans}::text[]) as o(id)
        on conflict do nothing returning id)
    select o.id from unnest(${orphans}::text[]) as o(id) where o.id not in (select id from added)`
  return rows.map(({ id }) => id)
}
