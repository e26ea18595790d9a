/**
 * How many imports run at once. An import that finds no slot stays `waiting`, and its reconciler tries again. What runs is
 * read from the table, so a restart changes nothing.
 */
import type { Sql } from '../db/database.ts'
import { KeyedLock } from '../lib/keyed-lock.ts'
import type { ImageRow } from './row.ts'

export const IMPORT_SLOTS = { per_host: 4, per_project: 2 }

/** Imports start one after the other in this process, the only one that starts imports on this host. */
const lock = new KeyedLock()

/**
 * Starts an import if a slot is free. `start` records that the import runs; false if it has failed.
 * @param sql bound to the environment of the image
 */
export function startInSlot(
  sql: Sql,
  { id }: Pick<ImageRow, 'id'>,
  start: () => Promise<boolean>,
): Promise<'started' | 'refused' | 'wait'> {
  return lock.run('', async () => {
    const [running] = await sql<{ host: number; project: number }[]>`select * from running_imports(${id})`
    if (running!.host >= IMPORT_SLOTS.per_host || running!.project >= IMPORT_SLOTS.per_project) return 'wait'
    return (await start()) ? 'started' : 'refused'
  })
}
