import type { Sql } from '../db/database.ts'
import type { Statement } from '../db/sql.ts'
import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'

type Missing = {
  /** The kind of work key. */
  kind: string
  /** The table of the resource, with the column `id`, and `environment_id` unless that is given. */
  table: string
  interval_seconds: number
  /** Which rows, as `r`, need a work row; omitted: all. */
  needsWork?: Statement<unknown>
  /** The environment of the keys; omitted: that of the rows. */
  environment_id?: string
}

/** Wakes resources that have no work row, of all tenants. Returns how many. */
export function requeueMissingJob({ sql }: Deps, { interval_seconds, ...missing }: Missing): PeriodicJob {
  return { interval_seconds, run: () => requeueMissing(sql, missing) }
}

async function requeueMissing(
  sql: Sql,
  { kind, table, needsWork, environment_id }: Omit<Missing, 'interval_seconds'>,
): Promise<number> {
  const [row] = await sql<{ count: number }[]>`
    with missing as materialized (
      select r.id, ${environment_id ?? sql`r.environment_id`}::text as environment_id from ${sql(table)} r
      where not exists (select from work w where w.kind = ${kind} and w.id = r.id) and ${needsWork ?? sql`true`}
    ), woken as materialized (
      select wake_keys(array_agg(${kind}::text), array_agg(id), array_agg(environment_id)) from missing
    )
    select count(*) from missing, woken`
  return row!.count
}
