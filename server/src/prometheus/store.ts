import type { Query } from '../db/database.ts'

/** Number of work keys of one kind, of all tenants: due, leased, and due later. */
export type QueueDepth = { kind: string; due: number; leased: number; later: number }

export async function queueDepth(query: Query): Promise<QueueDepth[]> {
  return await query<QueueDepth[]>`
    select kind, count(*) filter (where not leased and due) as due, count(*) filter (where leased) as leased,
      count(*) filter (where not leased and not due) as later
    from (
      select kind, coalesce(leased_until > now(), false) as leased,
        due_at <= environment_now(e) and not_before <= now() as due
      from work join environments e on e.id = work.environment_id
    ) keys
    group by kind order by kind`
}
