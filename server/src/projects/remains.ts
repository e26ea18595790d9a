/** SQL of the deletion of a project: what remains of it, and the end of its rows. */
import type { Query, Sql } from '../db/database.ts'
import type { Remains } from './decide.ts'
import type { Mode } from './store.ts'

/** Rows of one table that a pass deletes. */
const BATCH = 5_000

/** An environment of a project. */
export type Environment = { environment_id: string; mode: Mode }

/** When the deletion of a project was requested, and its environments; null if it is not being deleted. */
export async function readDeletion(
  sql: Sql,
  id: string,
): Promise<{ wanted_gone_at: Date; environments: Environment[] } | null> {
  const rows = await sql<(Environment & { wanted_gone_at: Date })[]>`
    select p.wanted_gone_at, e.id as environment_id, e.mode from projects p join environments e on e.project_id = p.id
    where p.id = ${id} and p.wanted_gone_at is not null order by e.mode`
  return rows[0] ? { wanted_gone_at: rows[0].wanted_gone_at, environments: rows } : null
}

type Counted = Omit<Remains, 'machines'>

/** What remains in one environment. */
export async function countRemains(query: Query, environmentId: string): Promise<Counted> {
  const [row] = await query<Counted[]>`
    with i as (select status, wanted_gone from instances where environment_id = ${environmentId}),
      w as (select wanted_gone from webhooks where environment_id = ${environmentId})
    select (select count(*) from i where status <> 'terminated' and not wanted_gone)
        + (select count(*) from w where not wanted_gone) as open,
      (select count(*) from i where status <> 'terminated') as instances,
      (select count(*) from i where status = 'terminated') as terminated,
      (select count(*) from images where environment_id = ${environmentId}) as images,
      (select count(*) from w) as webhooks`
  return row!
}

/** Of these machines, those of instances of an environment. */
export async function machinesOf(query: Query, environmentId: string, listed: string[]): Promise<string[]> {
  const rows = await query<{ id: string }[]>`
    select id from instances where environment_id = ${environmentId} and id = any(${listed}) order by id`
  return rows.map(({ id }) => id)
}

/** Deletes rows that nothing refers to. Returns how many; there may be more. */
export async function purgeRows(sql: Sql, id: string): Promise<number> {
  const [row] = await sql<{ deleted: number }[]>`select purge_project(${id}, ${BATCH}) as deleted`
  return row!.deleted
}

/** Deletes the project and its environments. Throws if a table still has rows of them. */
export async function finishDeletion(sql: Sql, id: string): Promise<void> {
  const [row] = await sql<{ table_name: string | null }[]>`select finish_project_deletion(${id}) as table_name`
  if (row!.table_name !== null) throw new Error(`the table ${row!.table_name} has rows of the project`)
}
