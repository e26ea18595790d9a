/**
 * How many imports run at once. An import that finds no slot stays `waiting`, and its reconciler tries again. What runs is
 * read from the table, so a crash changes nothing.
 */
import type { Config } from '../config.ts'
import type { Query, Transaction } from '../db/database.ts'

type Limits = Pick<Config, 'imports_per_host' | 'imports_per_project'>

/**
 * Whether the import of an image may begin.
 * @param query bound to the environment of the image
 */
export async function hasImportSlot(query: Query, limits: Limits, id: string): Promise<boolean> {
  const [running] = await query<{ host: number; project: number }[]>`select * from running_imports(${id})`
  return running!.host < limits.imports_per_host && running!.project < limits.imports_per_project
}

/** The same for a transaction that records the beginning: transactions that begin an import wait for each other. */
export async function takeImportSlot(tx: Transaction, limits: Limits, id: string): Promise<boolean> {
  await tx`select pg_advisory_xact_lock(hashtextextended('imports', 0))`
  return hasImportSlot(tx, limits, id)
}
