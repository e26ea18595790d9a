/**
 * The sweep: a look at everything now and then, itself a key of the work table, so only one process does it at a time.
 *
 * It compares what a driver lists with what the rows say, in both directions. A row whose work is missing gets it back.
 * What no row wants is removed, but only when it was seen on two sweeps in a row, and never on a listing that is empty
 * or has failed: a fault of the listing must not become a loss of machines.
 */
import type { Log } from '../lib/log.ts'
import type { Reconcile } from './loop.ts'

/** One comparison; its name is the id of its key. */
export type Sweep = {
  interval_seconds: number
  list(): Promise<{ id: string }[]>
  /** Of these ids, those that no row wants. */
  unknown(ids: string[]): Promise<string[]>
  remove(id: string): Promise<void>
  /** Restores what must hold between rows: work that is missing, reservations that nobody holds. */
  tidy(): Promise<void>
}

/** Reconciles the keys `('sweep', <name>)`. */
export function sweepReconciler(log: Log, sweeps: Record<string, Sweep>): Reconcile {
  const suspects = new Map<string, Set<string>>()
  return async ({ id: name }) => {
    const sweep = sweeps[name]
    if (!sweep) return { after_seconds: null }
    await sweep.tidy()
    const listed = (await sweep.list()).map((thing) => thing.id)
    const orphans = listed.length > 0 ? await sweep.unknown(listed) : []
    const before = suspects.get(name) ?? new Set()
    suspects.set(name, new Set(orphans))
    for (const id of orphans.filter((orphan) => before.has(orphan))) {
      log.warn({ sweep: name, id }, 'removing what no row wants')
      await sweep.remove(id)
    }
    return { after_seconds: sweep.interval_seconds }
  }
}
