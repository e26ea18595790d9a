/**
 * Records requests and spans. Rows are collected in a bounded queue and written in batches, within 200 ms.
 *
 * Rows can be lost: a process that is killed (-9) loses up to 200 ms of successful reads, and up to 50 ms (and the
 * current statement) of writes, failures and spans. The effects of a write are not lost with its record: its row and
 * events carry the request ID from their own transaction. A clean shutdown writes everything. While the database is
 * unavailable, rows stay in the queue. When the queue is full, reads are dropped first; a dropped write or failure is
 * logged and counted.
 */
import type { Sql } from '../db/database.ts'
import { atMost, type Clock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { type Random, seededRandom } from '../lib/random.ts'
import { createQueue } from './queue.ts'
import type { NewRequest, NewSpan } from './row.ts'
import { createSampler } from './sampling.ts'
import { type Batch, insertBatch, keepDays } from './store.ts'

/** Maximum number of rows in memory, about 10 MB. */
const CAPACITY = 20_000
const BATCH = 1_000
/** Number of queued rows that are written immediately. */
const FULL_BATCH = 500
const READ_DELAY_MS = 200
const KEPT_DELAY_MS = 50
const RETRY_DELAY_MS = 1_000
const FLUSH_DEADLINE_MS = 2_000
/** Maximum number of resources whose last span is cached, to omit repetitions. */
const MAX_LAST_SPANS = 10_000
/** SQLSTATE: no partition exists for the day of the row. */
const NO_PARTITION = '23514'

export type RequestCounts = {
  /** Written to the database. */
  written: number
  /** Successful reads that sampling omitted. */
  sampled_out: number
  /** Lost because the queue was full or the database rejected them. */
  dropped_reads: number
  dropped_kept: number
  queued: number
}

export type RequestLog = {
  /** The sample rate of a successful read; 0: do not record it. */
  sample(): number
  /** @param kept a write or a failure, which no other row displaces */
  request(row: NewRequest, kept: boolean): void
  /** Records an effect of a request. A repetition of the last span of the resource is omitted. */
  span(span: NewSpan): void
  /** Resolves when all rows recorded so far can be read, or after a deadline. Never rejects. */
  flush(): Promise<void>
  /** Writes the queued rows and stops recording. */
  stop(deadlineMs: number): Promise<void>
  counts(): RequestCounts
}

export type RecorderOptions = { sql: Sql; clock: Clock; random: Random; log: Log; days: number; capacity?: number }

/** @param options.sql not bound to a tenant: a batch contains rows of many tenants */
export function createRequestLog(options: RecorderOptions): RequestLog {
  const { sql, clock, log, days } = options
  const requests = createQueue<NewRequest>(options.capacity ?? CAPACITY)
  const spans = createQueue<NewSpan>(options.capacity ?? CAPACITY)
  const sampler = createSampler(seededRandom(options.random.integer(2 ** 31)))
  const lastSpans = new Map<string, string>()
  const counts = { written: 0, sampled_out: 0, refused: 0, reported: 0 }
  let timer: { cancel(): void; ms: number } | null = null
  let pending: (Batch & { isRetry: boolean }) | null = null
  let writing: Promise<void> | null = null
  let unavailable = false
  let stopped = false

  const hasRows = () => requests.size() + spans.size() > 0 || pending !== null

  function schedule(ms: number): void {
    if (unavailable || stopped || (timer !== null && timer.ms <= ms)) return
    timer?.cancel()
    timer = { ms, ...clock.after(ms, onTimer) }
  }

  function onTimer(): void {
    timer = null
    unavailable = false
    void write()
  }

  /** Runs one writer at a time; concurrent callers wait for the same writer. */
  function write(): Promise<void> {
    writing ??= writeAll().finally(() => {
      writing = null
      if (hasRows()) schedule(KEPT_DELAY_MS)
    })
    return writing
  }

  /** Writes the rows that are queued now; later rows are left for the next batch. */
  async function writeAll(): Promise<void> {
    const rounds = 1 + Math.ceil(Math.max(requests.size(), spans.size()) / BATCH)
    for (let round = 0; round < rounds && hasRows(); round++) {
      pending ??= { requests: requests.take(BATCH), spans: spans.take(BATCH), isRetry: false }
      const error = await writeOnce(pending)
      if (error instanceof DatabaseUnavailableError) {
        pending.isRetry = true
        schedule(RETRY_DELAY_MS)
        unavailable = true
        return
      }
      const size = pending.requests.length + pending.spans.length
      if (error) {
        counts.refused += size
        log.error({ rows: size, error: error.message }, 'the database rejected rows of the request log')
      } else counts.written += pending.requests.length
      pending = null
    }
    reportDropped()
  }

  async function writeOnce(batch: Batch & { isRetry: boolean }): Promise<Error | null> {
    try {
      await insertBatch(sql, batch, batch.isRetry)
      return null
    } catch (error) {
      if ((error as { code?: string }).code !== NO_PARTITION) return error as Error
      return keepDays(sql, days)
        .then(() => insertBatch(sql, batch, batch.isRetry))
        .then(
          () => null,
          (second: Error) => second,
        )
    }
  }

  function reportDropped(): void {
    const lost = requests.dropped().kept + spans.dropped().kept
    if (lost === counts.reported) return
    log.error({ dropped: lost - counts.reported }, 'the queue of the request log is full; dropped writes and failures')
    counts.reported = lost
  }

  return {
    sample() {
      const rate = sampler.rate(clock.monotonic())
      if (rate === 0) counts.sampled_out++
      return rate
    },
    request(row, kept) {
      if (stopped) return
      requests.add(row, kept)
      if (requests.size() >= FULL_BATCH && !unavailable) void write()
      else schedule(kept ? KEPT_DELAY_MS : READ_DELAY_MS)
    },
    span(span) {
      if (stopped) return
      const signature = `${span.request_id} ${span.name} ${span.status} ${span.detail.code ?? ''}`
      // A delivery is never a repetition and does not separate two equal steps.
      if (span.kind !== 'delivery') {
        if (lastSpans.get(span.resource) === signature) return
        if (lastSpans.size >= MAX_LAST_SPANS) lastSpans.clear()
        lastSpans.set(span.resource, signature)
      }
      spans.add(span, true)
      schedule(KEPT_DELAY_MS)
    },
    async flush() {
      if (!hasRows()) return
      const all = (writing ?? Promise.resolve()).then(() => (hasRows() ? write() : undefined))
      await atMost(clock, FLUSH_DEADLINE_MS, all)
    },
    async stop(deadlineMs) {
      timer?.cancel()
      const all = (writing ?? Promise.resolve()).then(() => write())
      await atMost(clock, deadlineMs, all)
      stopped = true
      timer?.cancel()
      const lost = requests.size() + spans.size() + (pending ? pending.requests.length + pending.spans.length : 0)
      if (lost > 0) log.error({ lost }, 'the request log could not be written before shutdown')
    },
    counts: () => ({
      written: counts.written,
      sampled_out: counts.sampled_out,
      dropped_reads: requests.dropped().reads,
      dropped_kept: requests.dropped().kept + spans.dropped().kept + counts.refused,
      queued: requests.size() + spans.size(),
    }),
  }
}
