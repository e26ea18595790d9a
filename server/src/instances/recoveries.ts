/** All SQL statements on recoveries: their records, recovery slots, and statistics. */
import type { Config } from '../config.ts'
import type { Query, Transaction } from '../db/database.ts'
import type { Outbox } from '../events/outbox.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Cause, InstanceRow, Recovery } from './row.ts'

/** Inserts or updates the record of a recovery; called by `save` in its transaction. */
export async function writeRecovery(tx: Transaction, row: InstanceRow, recovery: Recovery): Promise<void> {
  const columns = { environment_id: row.environment_id, instance_id: row.id, ...recovery }
  const { number: _, environment_id: _e, instance_id: _i, ...changing } = columns
  await tx`
    insert into recoveries ${tx(columns)}
    on conflict (environment_id, instance_id, number) do update set ${tx(changing)}`
}

/**
 * Whether an instance may restart now after a reboot of its host. A transaction keeps the slot until it ends, so no other
 * transaction gets it.
 */
export async function hasRecoverySlot(
  query: Query,
  row: InstanceRow,
  config: Pick<Config, 'recovery'>,
): Promise<boolean> {
  const [found] = await query<{ has_slot: boolean }[]>`
    select recovery_turn(${row.id}, ${row.observed_boot}, ${config.recovery.concurrency}) as has_slot`
  return found!.has_slot
}

/** Wakes the instances that wait for a recovery slot, after the recovery of this row has ended. */
export async function wakeWaitingForSlot(tx: Transaction, outbox: Outbox, row: InstanceRow): Promise<void> {
  // An instance that was not restarted held no slot.
  if (row.recovery?.cause !== 'host_rebooted' || row.recovery.attempts === 0) return
  const waiting = await tx<{ id: string; environment_id: string }[]>`
    select id, environment_id from instances_waiting_to_recover(${row.id})`
  for (const { id, environment_id } of waiting) outbox.wakes.push({ kind: 'instance', id, environment_id })
}

/** Days of the environment's time for which records are kept. */
const KEPT_DAYS = 90

/** Deletes older records, of all environments. Returns how many. */
export async function purgeRecoveries(query: Query): Promise<number> {
  const { count } = await query`
    delete from recoveries where detected_at < environment_now(environment_id) - make_interval(days => ${KEPT_DAYS})`
  return count
}

/** A record in a list. */
export type RecoveryRow = {
  ordinal: number
  cause: Cause
  detected_at: Date
  down_since: Date | null
  started_at: Date | null
  ended_at: Date | null
  attempts: number
  outcome: Recovery['outcome']
}

/** One window of an instance's recoveries, in the order of their numbers. */
export async function listRecoveries(
  query: Query,
  environmentId: string,
  instanceId: string,
  window: Window,
): Promise<RecoveryRow[]> {
  return await query<RecoveryRow[]>`
    select * from (
      select number as ordinal, cause, detected_at, down_since, started_at, ended_at, attempts, outcome
      from recoveries where environment_id = ${environmentId} and instance_id = ${instanceId}
    ) as r where true ${windowSql(query, window)}`
}

/** Percentiles of the duration of one phase, in seconds. */
export type Percentiles = { p50: number; p90: number; p99: number; samples: number } | null

/** Durations of the recoveries with one cause, or with any cause (null). */
export type ObjectiveRow = {
  cause: Cause | null
  total: number
  recovered: number
  detect: Percentiles
  restart: Percentiles
  ready: Percentiles
  downtime: Percentiles
}

/** Statistics of all recoveries of the environment that have ended. The row of all causes is first. */
export async function readObjective(query: Query, environmentId: string): Promise<ObjectiveRow[]> {
  const percentiles = (phase: 'detect' | 'restart' | 'ready' | 'downtime') => {
    const seconds = query(phase)
    const at = (fraction: number) => query`percentile_cont(${fraction}::float8) within group (order by ${seconds})`
    return query`
      case when count(${seconds}) > 0 then json_build_object('p50', ${at(0.5)}, 'p90', ${at(0.9)}, 'p99', ${at(0.99)},
        'samples', count(${seconds})) end`
  }
  return await query<ObjectiveRow[]>`
    select cause, count(*)::integer as total, count(*) filter (where outcome = 'recovered')::integer as recovered,
      ${percentiles('detect')} as detect, ${percentiles('restart')} as restart, ${percentiles('ready')} as ready,
      ${percentiles('downtime')} as downtime
    from (
      select cause, outcome, extract(epoch from detected_at - down_since) as detect,
        case when outcome = 'recovered' then extract(epoch from started_at - detected_at) end as restart,
        case when outcome = 'recovered' then extract(epoch from ended_at - started_at) end as ready,
        case when outcome = 'recovered' then extract(epoch from ended_at - coalesce(down_since, detected_at)) end as downtime
      from recoveries where environment_id = ${environmentId} and outcome is not null
    ) as r
    group by grouping sets ((), (cause)) order by grouping(cause) desc, cause`
}
