import type { Transaction } from '../db/database.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import type { EventType } from './catalog.ts'

/** One event to be written: `object` is the resource as the API shows it, at the commit. */
export type NewEvent = {
  environment_id: string
  type: EventType
  resource_type: 'instance'
  resource_id: string
  request_id: string | null
  object: object
}

/**
 * Writes events with the next numbers of their environment. The number comes from the environment's head, which stays
 * locked until the commit: so numbers rise in the order of commits and have no gaps. For the same reason this must be
 * the last thing that a transaction does before it commits.
 *
 * The advisory lock is the queue: those who wait for a row that is updated all wake at each commit, those who wait for
 * a lock one by one.
 */
export async function emit(tx: Transaction, random: Random, events: NewEvent[]): Promise<void> {
  for (const event of events) {
    const data = { object: event.object }
    await tx`
      with numbered as (
        update environment_heads set sequence = sequence + 1
        from (select pg_advisory_xact_lock(hashtextextended(${event.environment_id}, 0))) as turn
        where environment_id = ${event.environment_id}
        returning sequence, environment_now(${event.environment_id}) as now
      )
      insert into events (environment_id, sequence, id, type, resource_type, resource_id, request_id, created_at, data)
      select ${event.environment_id}, sequence, ${newId('evt', random)}, ${event.type}, ${event.resource_type},
        ${event.resource_id}, ${event.request_id}, now, ${tx.json(data)}
      from numbered`
  }
}
