import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Sql } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { EngineObserver } from '../engine/loop.ts'
import { atMost, type Clock } from '../lib/clock.ts'
import type { Counter, Metrics } from '../lib/metrics.ts'
import { queueDepth } from './store.ts'

/** Deadline for counting the queue, so that a scrape succeeds while the database is unavailable. */
const DATABASE_DEADLINE_MS = 2_000

/** Interval of the timer that measures the event loop delay; the measurement includes it. */
const RESOLUTION_MS = 20

/** Registers the metrics of the process and its components. */
export function collectMetrics({
  metrics,
  sql,
  clock,
  requests,
}: Pick<Deps, 'metrics' | 'sql' | 'clock' | 'requests'>): void {
  collectProcess(metrics, clock)
  collectQueue(metrics, sql, clock)
  const { collect } = metrics
  collect('cloudnexus_database_connections', 'gauge', 'Database connections in the pool.', () => {
    const { total, idle } = sql.pool()
    const sample = (state: string, value: number) => ({ labels: { state }, value })
    return [sample('idle', idle), sample('busy', total - idle)]
  })
  collect('cloudnexus_database_waiting', 'gauge', 'Statements waiting for a database connection.', () => [
    { value: sql.pool().waiting },
  ])
  collect('cloudnexus_request_log_written_total', 'counter', 'Requests written to the request log.', () => [
    { value: requests.counts().written },
  ])
  collect(
    'cloudnexus_request_log_sampled_out_total',
    'counter',
    'Reads omitted from the request log by sampling.',
    () => [{ value: requests.counts().sampled_out }],
  )
  collect(
    'cloudnexus_request_log_dropped_total',
    'counter',
    'Rows of the request log dropped because the queue was full or the database rejected them.',
    () => [
      { labels: { kind: 'read' }, value: requests.counts().dropped_reads },
      { labels: { kind: 'kept' }, value: requests.counts().dropped_kept },
    ],
  )
  collect('cloudnexus_request_log_queued', 'gauge', 'Rows of the request log waiting to be written.', () => [
    { value: requests.counts().queued },
  ])
}

function collectQueue({ collect }: Metrics, sql: Sql, clock: Clock): void {
  collect('cloudnexus_engine_queue', 'gauge', 'Keys of the work table, by kind and state.', async () => {
    const rows = (await atMost(clock, DATABASE_DEADLINE_MS, queueDepth(sql))) ?? []
    return rows.flatMap(({ kind, due, leased, later }) =>
      Object.entries({ due, leased, later }).map(([state, value]) => ({ labels: { kind, state }, value })),
    )
  })
}

function collectProcess({ collect }: Metrics, clock: Clock): void {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  delay.enable()
  const started = clock.now().getTime() / 1000 - process.uptime()
  collect('process_start_time_seconds', 'gauge', 'Start time of the process, in seconds since 1970.', () => [
    { value: started },
  ])
  collect('process_resident_memory_bytes', 'gauge', 'Resident memory of the process, in bytes.', () => [
    { value: process.memoryUsage.rss() },
  ])
  collect('process_cpu_seconds_total', 'counter', 'CPU time of the process, in seconds.', () => {
    const { user, system } = process.cpuUsage()
    return [{ value: (user + system) / 1e6 }]
  })
  collect('nodejs_eventloop_delay_seconds', 'gauge', 'Event loop delay since the last scrape, in seconds.', () => {
    const sample = (quantile: string, nanoseconds: number) => ({
      labels: { quantile },
      value: Math.max(0, nanoseconds / 1e9 - RESOLUTION_MS / 1000),
    })
    const samples = [sample('0.5', delay.percentile(50)), sample('0.99', delay.percentile(99)), sample('1', delay.max)]
    delay.reset()
    return samples
  })
}

/** Counts claims, steps and failures of an engine. */
export function engineObserver(metrics: Metrics): EngineObserver {
  const kinds = new Map<string, { claims: Counter; failures: Counter; steps: ReturnType<Metrics['histogram']> }>()
  const of = (kind: string) => {
    const labels = { kind }
    const found = kinds.get(kind) ?? {
      claims: metrics.counter('cloudnexus_engine_claims_total', 'Keys claimed by the engine.', labels),
      failures: metrics.counter('cloudnexus_engine_failures_total', 'Reconcile passes that failed.', labels),
      steps: metrics.histogram('cloudnexus_engine_look_seconds', 'Duration of a reconcile pass, in seconds.', labels),
    }
    kinds.set(kind, found)
    return found
  }
  return {
    claimed: (kind) => of(kind).claims.add(),
    stepped(kind, milliseconds, failed) {
      of(kind).steps.observe(milliseconds / 1000)
      if (failed) of(kind).failures.add()
    },
  }
}
