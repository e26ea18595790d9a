/**
 * The recorder of requests and spans. Requests cost no statement of their own: rows gather in a bounded queue and are
 * written together, a fifth of a second later at most.
 *
 * What can be lost, honestly: a process that is killed (-9) takes with it what it had not written yet. That is up to
 * 200 ms of successful reads, and up to 50 ms (and the statement under way) of writes, failures and spans. The write
 * itself is not lost with its record: its row and events carry the request id from its own transaction. An orderly stop
 * writes everything. While the database is away rows wait here, until there are too many of them: reads go first, and
 * if even writes and failures find no room, the log and a counter say so.
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

/** Rows in memory at most; some 10 MB. */
const CAPACITY = 20_000
const BATCH = 1_000
/** Rows that are reason enough to write at once. */
const PLENTY = 500
const READS_MS = 200
const KEPT_MS = 50
const RETRY_MS = 1_000
const FLUSH_DEADLINE_MS = 2_000
/** Resources whose last span is remembered, to leave out repetitions. */
const REMEMBERED = 10_000
/** No partition takes the row: its day has not been made yet. */
const NO_PARTITION = '23514'

export type RequestCounts = {
  /** Written to the database. */
  written: number
  /** Successful reads above the full rate, left out by design. */
  sampled_out: number
  /** Lost for want of room or because the database refused them. */
  dropped_reads: number
  dropped_kept: number
  queued: number
}

export type RequestLog = {
  /** The share with which a successful read is to be recorded; 0: not this one. */
  sample(): number
  /** @param kept a write or a failure, which makes way for nothing */
  request(row: NewRequest, kept: boolean): void
  /** Something that a request caused. The same again for the same resource is left out: a step that is repeated. */
  span(span: NewSpan): void
  /** Resolves when all that was recorded so far can be read, or the database does not answer. Never rejects. */
  flush(): Promise<void>
  /** Writes what is left, and records nothing any more. */
  stop(deadlineMs: number): Promise<void>
  counts(): RequestCounts
}

export type RecorderOptions = { sql: Sql; clock: Clock; random: Random; log: Log; days: number; capacity?: number }

/** @param options.sql for all environments: a batch holds rows of many tenants */
export function createRequestLog(options: RecorderOptions): RequestLog {
  const { sql, clock, log, days } = options
  const requests = createQueue<NewRequest>(options.capacity ?? CAPACITY)
  const spans = createQueue<NewSpan>(options.capacity ?? CAPACITY)
  const sampler = createSampler(seededRandom(options.random.integer(2 ** 31)))
  const lastSpans = new Map<string, string>()
  const counts = { written: 0, sampled_out: 0, refused: 0, reported: 0 }
  let alarm: { cancel(): void; ms: number } | null = null
  let pending: (Batch & { again: boolean }) | null = null
  let writing: Promise<void> | null = null
  let away = false
  let stopped = false

  const waiting = () => requests.size() + spans.size() > 0 || pending !== null

  function schedule(ms: number): void {
    if (away || stopped || (alarm !== null && alarm.ms <= ms)) return
    alarm?.cancel()
    alarm = { ms, ...clock.after(ms, due) }
  }

  function due(): void {
    alarm = null
    away = false
    void write()
  }

  /** One writer at a time; a caller that finds it at work waits for the same end. */
  function write(): Promise<void> {
    writing ??= writeAll().finally(() => {
      writing = null
      if (waiting()) schedule(KEPT_MS)
    })
    return writing
  }

  /** What is there now, not what arrives meanwhile: that is for the next time, together. */
  async function writeAll(): Promise<void> {
    const rounds = 1 + Math.ceil(Math.max(requests.size(), spans.size()) / BATCH)
    for (let round = 0; round < rounds && waiting(); round++) {
      pending ??= { requests: requests.take(BATCH), spans: spans.take(BATCH), again: false }
      const error = await writeOnce(pending)
      if (error instanceof DatabaseUnavailableError) {
        pending.again = true
        schedule(RETRY_MS)
        away = true
        return
      }
      const size = pending.requests.length + pending.spans.length
      if (error) {
        counts.refused += size
        log.error({ rows: size, error: error.message }, 'the request log was refused by the database')
      } else counts.written += pending.requests.length
      pending = null
    }
    reportDropped()
  }

  async function writeOnce(batch: Batch & { again: boolean }): Promise<Error | null> {
    try {
      await insertBatch(sql, batch, batch.again)
      return null
    } catch (error) {
      if ((error as { code?: string }).code !== NO_PARTITION) return error as Error
      return keepDays(sql, days)
        .then(() => insertBatch(sql, batch, batch.again))
        .then(
          () => null,
          (second: Error) => second,
        )
    }
  }

  function reportDropped(): void {
    const lost = requests.dropped().kept + spans.dropped().kept
    if (lost === counts.reported) return
    log.error({ dropped: lost - counts.reported }, 'the request log had no room for writes and failures')
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
      if (requests.size() >= PLENTY && !away) void write()
      else schedule(kept ? KEPT_MS : READS_MS)
    },
    span(span) {
      if (stopped) return
      const signature = `${span.request_id} ${span.name} ${span.status} ${span.detail.code ?? ''}`
      // No delivery is a repetition, and none stands between two looks.
      if (span.kind !== 'delivery') {
        if (lastSpans.get(span.resource) === signature) return
        if (lastSpans.size >= REMEMBERED) lastSpans.clear()
        lastSpans.set(span.resource, signature)
      }
      spans.add(span, true)
      schedule(KEPT_MS)
    },
    async flush() {
      if (!waiting()) return
      const all = (writing ?? Promise.resolve()).then(() => (waiting() ? write() : undefined))
      await atMost(clock, FLUSH_DEADLINE_MS, all)
    },
    async stop(deadlineMs) {
      alarm?.cancel()
      const all = (writing ?? Promise.resolve()).then(() => write())
      await atMost(clock, deadlineMs, all)
      stopped = true
      alarm?.cancel()
      const lost = requests.size() + spans.size() + (pending ? pending.requests.length + pending.spans.length : 0)
      if (lost > 0) log.error({ lost }, 'the request log could not be written before the end')
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
