/**
 * The orphan sweep compares the machines that a driver lists with the rows, and removes machines without a row. Each
 * sweep is a work key, so one process at a time runs it.
 *
 * It removes a machine only when two consecutive sweeps found it (`sweep_suspects`), and removes nothing when the listing
 * is empty or fails: a faulty listing must not delete machines.
 */
import type { Sql } from '../db/database.ts'
import type { Log } from '../lib/log.ts'
import type { Reconcile } from './loop.ts'

/** The orphan sweep of one driver; its name is the ID of its work key. */
export type OrphanSweep = {
  interval_seconds: number
  list(): Promise<{ id: string }[]>
  /** Returns the IDs that have no row. */
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

/** Stores the orphans of this sweep. Returns those that the previous sweep found, too. */
async function replaceSuspects(sql: Sql, sweep: string, orphans: string[]): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`
    with cleared as (delete from sweep_suspects where sweep = ${sweep} and not id = any(${orphans})),
      added as (
        insert into sweep_suspects (sweep, id) select ${sweep}, id from unnest(${orphans}::text[]) as o(id)
        on conflict do nothing returning id)
    select o.id from unnest(${orphans}::text[]) as o(id) where o.id not in (select id from added)`
  return rows.map(({ id }) => id)
}
