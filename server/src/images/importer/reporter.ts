/** Tells the control plane how far the import is (status.json), and the log what happens (JSON lines). */
import { type Clock, systemClock } from '../../lib/clock.ts'
import type { ImportError } from './errors.ts'
import { writeAtomically } from './files.ts'
import { jobPaths } from './job-files.ts'
import type { Phase, Status } from './status.ts'

const MIN_INTERVAL_MS = 250

export type Reporter = {
  phase: (phase: Phase, message: string) => void
  /** Bytes of the source that are here. */
  bytes: (done: number, total: number | null) => void
  /** Part of the phase that is done, 0 to 1, where it is not counted in bytes. */
  fraction: (done: number, message?: string) => void
  log: (message: string, fields?: object) => void
  done: () => void
  failed: (error: ImportError) => void
}

/** Takes over a job's status: every number starts anew. `writeLog` gets one JSON line at a time. */
export function createReporter(jobDir: string, writeLog: (line: string) => void, clock: Clock = systemClock): Reporter {
  const path = jobPaths(jobDir).status
  let written = Number.NEGATIVE_INFINITY
  let pending: { cancel(): void } | null = null
  let status: Status = {
    state: 'running',
    phase: 'downloading',
    progress: null,
    done_bytes: 0,
    total_bytes: null,
    message: null,
    error: null,
    pid: process.pid,
    updated_at: '',
  }

  const write = (durable: boolean) => {
    pending?.cancel()
    pending = null
    written = clock.monotonic()
    status.updated_at = clock.now().toISOString()
    writeAtomically(path, JSON.stringify(status), { durable })
  }
  const log = (message: string, fields: object = {}) => {
    const record = { level: 'info', time: clock.now().toISOString(), pid: process.pid, msg: message, ...fields }
    writeLog(`${JSON.stringify(record)}\n`)
  }
  const now = (change: Partial<Status>) => {
    status = { ...status, ...change }
    write(true)
  }
  const soon = (change: Partial<Status>) => {
    status = { ...status, ...change }
    const wait = written + MIN_INTERVAL_MS - clock.monotonic()
    if (wait <= 0) write(false)
    else pending ??= clock.after(wait, () => write(false))
  }

  return {
    phase: (phase, message) => {
      now({ phase, message, progress: null })
      log(message, { phase })
    },
    bytes: (done, total) => {
      const progress = total === null || total === 0 ? null : Math.min(1, done / total)
      soon({ done_bytes: done, total_bytes: total, progress })
    },
    fraction: (done, message) => soon({ progress: Math.min(1, Math.max(0, done)), ...(message && { message }) }),
    log,
    done: () => {
      now({ state: 'done', progress: 1, message: null })
      log('the image is here')
    },
    failed: (error) => {
      now({ state: 'failed', progress: null, message: null, error: { code: error.code, message: error.message } })
      log('the import failed', { level: 'error', code: error.code, reason: error.message, detail: error.detail })
    },
  }
}
