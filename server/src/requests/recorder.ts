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
import { createQueue, type Queue } from './queue.ts'
import type { NewRequest, NewSpan } from './row.ts'
import { createSampler, type Sampler } from './sampling.ts'
import { type Batch, insertBatch, rotateDays } from './store.ts'

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
  return new Recorder(options)
}

class Recorder implements RequestLog {
  readonly #sql: Sql
  readonly #clock: Clock
  readonly #log: Log
  readonly #days: number
  readonly #requests: Queue<NewRequest>
  readonly #spans: Queue<NewSpan>
  readonly #sampler: Sampler
  readonly #lastSpans = new Map<string, string>()
  readonly #counts = { written: 0, sampled_out: 0, refused: 0, reported: 0 }
  #timer: { cancel(): void; ms: number } | null = null
  #pending: (Batch & { isRetry: boolean }) | null = null
  #writing: Promise<void> | null = null
  #isUnavailable = false
  #isStopped = false

  constructor({ sql, clock, random, log, days, capacity = CAPACITY }: RecorderOptions) {
    this.#sql = sql
    this.#clock = clock
    this.#log = log
    this.#days = days
    this.#requests = createQueue(capacity)
    this.#spans = createQueue(capacity)
    this.#sampler = createSampler(seededRandom(random.integer(2 ** 31)))
  }

  sample(): number {
    const rate = this.#sampler.rate(this.#clock.monotonic())
    if (rate === 0) this.#counts.sampled_out++
    return rate
  }

  request(row: NewRequest, kept: boolean): void {
    if (this.#isStopped) return
    this.#requests.add(row, kept)
    if (this.#requests.size() >= FULL_BATCH && !this.#isUnavailable) void this.#write()
    else this.#schedule(kept ? KEPT_DELAY_MS : READ_DELAY_MS)
  }

  span(span: NewSpan): void {
    if (this.#isStopped) return
    const signature = `${span.request_id} ${span.name} ${span.status} ${span.detail.code ?? ''}`
    // A delivery is never a repetition and does not separate two equal steps.
    if (span.kind !== 'delivery') {
      if (this.#lastSpans.get(span.resource) === signature) return
      if (this.#lastSpans.size >= MAX_LAST_SPANS) this.#lastSpans.clear()
      this.#lastSpans.set(span.resource, signature)
    }
    this.#spans.add(span, true)
    this.#schedule(KEPT_DELAY_MS)
  }

  async flush(): Promise<void> {
    if (!this.#hasRows()) return
    const all = (this.#writing ?? Promise.resolve()).then(() => (this.#hasRows() ? this.#write() : undefined))
    await atMost(this.#clock, FLUSH_DEADLINE_MS, all)
  }

  async stop(deadlineMs: number): Promise<void> {
    this.#timer?.cancel()
    const all = (this.#writing ?? Promise.resolve()).then(() => this.#write())
    await atMost(this.#clock, deadlineMs, all)
    this.#isStopped = true
    this.#timer?.cancel()
    const lost = this.#queued() + (this.#pending ? sizeOf(this.#pending) : 0)
    if (lost > 0) this.#log.error({ lost }, 'the request log could not be written before shutdown')
  }

  counts(): RequestCounts {
    return {
      written: this.#counts.written,
      sampled_out: this.#counts.sampled_out,
      dropped_reads: this.#requests.dropped().reads,
      dropped_kept: this.#requests.dropped().kept + this.#spans.dropped().kept + this.#counts.refused,
      queued: this.#queued(),
    }
  }

  #queued(): number {
    return this.#requests.size() + this.#spans.size()
  }

  #hasRows(): boolean {
    return this.#queued() > 0 || this.#pending !== null
  }

  #schedule(ms: number): void {
    if (this.#isUnavailable || this.#isStopped || (this.#timer !== null && this.#timer.ms <= ms)) return
    this.#timer?.cancel()
    const { cancel } = this.#clock.after(ms, () => {
      this.#timer = null
      this.#isUnavailable = false
      void this.#write()
    })
    this.#timer = { ms, cancel }
  }

  /** Runs one writer at a time; concurrent callers wait for the same writer. */
  #write(): Promise<void> {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = null
      if (this.#hasRows()) this.#schedule(KEPT_DELAY_MS)
    })
    return this.#writing
  }

  /** Writes the rows that are queued now; later rows are left for the next batch. */
  async #writeAll(): Promise<void> {
    const rounds = 1 + Math.ceil(Math.max(this.#requests.size(), this.#spans.size()) / BATCH)
    for (let round = 0; round < rounds && this.#hasRows(); round++) {
      this.#pending ??= { requests: this.#requests.take(BATCH), spans: this.#spans.take(BATCH), isRetry: false }
      const error = await this.#writeOnce(this.#pending)
      if (error instanceof DatabaseUnavailableError) {
        this.#pending.isRetry = true
        this.#schedule(RETRY_DELAY_MS)
        this.#isUnavailable = true
        return
      }
      if (error) {
        const rows = sizeOf(this.#pending)
        this.#counts.refused += rows
        this.#log.error({ rows, error: error.message }, 'the database rejected rows of the request log')
      } else this.#counts.written += this.#pending.requests.length
      this.#pending = null
    }
    this.#reportDropped()
  }

  async #writeOnce(batch: Batch & { isRetry: boolean }): Promise<Error | null> {
    try {
      await insertBatch(this.#sql, batch, batch.isRetry)
      return null
    } catch (error) {
      if ((error as { code?: string }).code !== NO_PARTITION) return error as Error
      return rotateDays(this.#sql, this.#days)
        .then(() => insertBatch(this.#sql, batch, batch.isRetry))
        .then(
          () => null,
          (second: Error) => second,
        )
    }
  }

  #reportDropped(): void {
    const dropped = this.#requests.dropped().kept + this.#spans.dropped().kept
    if (dropped === this.#counts.reported) return
    const fields = { dropped: dropped - this.#counts.reported }
    this.#log.error(fields, 'the queue of the request log is full; dropped writes and failures')
    this.#counts.reported = dropped
  }
}

const sizeOf = ({ requests, spans }: Batch): number => requests.length + spans.length
