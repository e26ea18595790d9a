/** Writes the progress of an import to `status.json`, and its log as JSON lines. */
import { type Clock, systemClock } from '../../lib/clock.ts'
import type { ImportError } from './errors.ts'
import { writeAtomically } from './files.ts'
import { jobPaths } from './job-files.ts'
import type { Phase, Status } from './status.ts'

const MIN_INTERVAL_MS = 250

export type Reporter = {
  phase: (phase: Phase, message: string) => void
  /** Sets the number of bytes received. */
  bytes: (done: number, total: number | null) => void
  /** Sets the completed fraction of the phase, 0 to 1, where it is not measured in bytes. */
  fraction: (done: number, message?: string) => void
  /** Requests that the import may occupy this many bytes in total. */
  needs: (bytes: number) => void
  log: (message: string, fields?: object) => void
  done: () => void
  failed: (error: ImportError) => void
}

/** Resets the status of a job. `writeLog` receives one JSON line per call. */
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
  const update = (change: Partial<Status>, { durable }: { durable: boolean }) => {
    status = { ...status, ...change }
    const wait = written + MIN_INTERVAL_MS - clock.monotonic()
    if (durable || wait <= 0) write(durable)
    else pending ??= clock.after(wait, () => write(false))
  }

  return {
    phase: (phase, message) => {
      update({ phase, message, progress: null }, { durable: true })
      log(message, { phase })
    },
    bytes: (done, total) => {
      const progress = total === null || total === 0 ? null : Math.min(1, done / total)
      update({ done_bytes: done, total_bytes: total, progress }, { durable: false })
    },
    fraction: (done, message) =>
      update({ progress: Math.min(1, Math.max(0, done)), ...(message && { message }) }, { durable: false }),
    needs: (bytes) => {
      update({ needed_bytes: bytes }, { durable: true })
      log('needs disk space', { bytes })
    },
    log,
    done: () => {
      update({ state: 'done', progress: 1, message: null }, { durable: true })
      log('import finished')
    },
    failed: (error) => {
      const { code, message, detail } = error
      update({ state: 'failed', progress: null, message: null, error: { code, message } }, { durable: true })
      log('import failed', { level: 'error', code, reason: message, detail })
    },
  }
}
