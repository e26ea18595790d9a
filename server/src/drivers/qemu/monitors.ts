/**
 * Announces changes of running machines early. For each machine there is one connection to its monitor socket (power
 * off, panic, disk error; it closes when the process ends) and one watch on the file in which the guest signals that it
 * is ready. Announcements are hints to observe the machine. Because a socket can close a few milliseconds before the
 * process has exited, the end is announced after the exit. A guest cannot cause a flood of hints: the ready file is
 * watched until its first line, and only events that change the state of a machine count.
 *
 * The monitors also record what is not visible in the present state: since when a machine is down, and how long its
 * heartbeat has been missing (heartbeat.ts).
 */
import { type FSWatcher, watch } from 'node:fs'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { isAlive, type ProcessIdentity } from '../../lib/processes.ts'
import {
  afterPause,
  afterReset,
  type Heartbeat,
  hasSignaledReady,
  isHung,
  NO_HEARTBEAT,
  readHeartbeatFile,
  TICK_MS,
  updateHeartbeat,
} from './heartbeat.ts'
import type { MachinePaths } from './machine-files.ts'
import { waitForEnd } from './process.ts'
import { QmpClient } from './qmp.ts'

const EVENTS = new Set(['SHUTDOWN', 'GUEST_PANICKED', 'BLOCK_IO_ERROR', 'STOP', 'RESUME'])
/** Events after which a guest is down. */
const FAILURES = new Set(['GUEST_PANICKED', 'BLOCK_IO_ERROR'])
const CONNECT_MS = 2000
/** A new process opens its socket within tens of milliseconds; later attempts are for a process that hangs. */
const FIRST_RETRY_MS = 10
const LAST_RETRY_MS = 1000
const MAX_ATTEMPTS = 60
const END_MS = 2000

/** What only the monitor of a machine observes. */
export type MonitorState = { hung: boolean; down_since: Date | null }

type MonitoredMachine = { process: ProcessIdentity; stop: AbortController; paths: MachinePaths; heartbeat: Heartbeat }

export class Monitors {
  readonly #clock: Clock
  readonly #log: Log
  readonly #changed: (id: string) => void
  readonly #open = new Map<string, MonitoredMachine>()
  /** When monitored machines went down; kept until they are started again or removed. */
  readonly #downSince = new Map<string, Date>()
  #ticking: { cancel(): void } | null = null
  #closed = false

  constructor(clock: Clock, log: Log, changed: (id: string) => void) {
    this.#clock = clock
    this.#log = log
    this.#changed = changed
  }

  /** Starts to monitor this process of the machine. No effect if it is already monitored. */
  attach(id: string, paths: MachinePaths, process: ProcessIdentity): void {
    const open = this.#open.get(id)
    if (open?.process.pid === process.pid && open.process.start_time === process.start_time) return
    this.remove(id)
    const stop = new AbortController()
    this.#open.set(id, { process, stop, paths, heartbeat: NO_HEARTBEAT })
    this.#scheduleTick()
    this.#watchReady(id, paths.ready, stop.signal)
    this.#listen(id, paths.monitor, process, stop.signal)
      .catch((error) => this.#log.warn({ instance: id, error: String(error) }, 'machine monitor failed'))
      .finally(() => {
        if (this.#open.get(id)?.stop === stop) this.detach(id)
      })
  }

  detach(id: string): void {
    this.#open.get(id)?.stop.abort()
    this.#open.delete(id)
  }

  /** Stops to monitor the machine and discards what was recorded. */
  remove(id: string): void {
    this.detach(id)
    this.#downSince.delete(id)
  }

  /** What was recorded of this machine. */
  async monitorState(id: string): Promise<MonitorState> {
    const open = this.#open.get(id)
    const hung = open !== undefined && isHung(open.heartbeat)
    // The modification time of the file is the time of the last heartbeat.
    const silentSince = hung ? (await readHeartbeatFile(open.paths.ready))?.at : null
    return { hung, down_since: this.#downSince.get(id) ?? silentSince ?? null }
  }

  /** Records when a machine went down, unless that is already recorded. */
  recordFailure(id: string, at: Date): void {
    if (!this.#downSince.has(id)) this.#downSince.set(id, at)
  }

  /** Records that a machine was resumed. */
  recordResume(id: string): void {
    this.#downSince.delete(id)
    this.#updateHeartbeat(id, afterPause)
  }

  /** The paths of the monitored machines. */
  paths(): MachinePaths[] {
    return [...this.#open.values()].map((open) => open.paths)
  }

  close(): void {
    this.#closed = true
    this.#ticking?.cancel()
    for (const id of [...this.#open.keys()]) this.detach(id)
  }

  async #listen(id: string, socket: string, process: ProcessIdentity, stop: AbortSignal): Promise<void> {
    let delay = FIRST_RETRY_MS
    for (let attempt = 0; attempt < MAX_ATTEMPTS && !stop.aborted; attempt++) {
      const client = await QmpClient.connect(socket, CONNECT_MS, this.#clock).catch(() => null)
      if (client) {
        await this.#follow(id, client, stop)
        const ended = this.#clock.now()
        delay = FIRST_RETRY_MS
        if (!stop.aborted && (await waitForEnd(process, END_MS, this.#clock))) {
          if (!stop.aborted) this.recordFailure(id, ended)
          break
        }
      }
      if (!isAlive(process)) break
      await this.#clock.sleep(delay, stop)
      delay = Math.min(delay * 2, LAST_RETRY_MS)
    }
    if (!stop.aborted) this.#changed(id)
  }

  /** Forwards events until the connection closes or `stop` aborts. One hint covers what happened before. */
  async #follow(id: string, client: QmpClient, stop: AbortSignal): Promise<void> {
    const close = () => client.close()
    client.onEvent = ({ event }) => {
      if (FAILURES.has(event)) this.recordFailure(id, this.#clock.now())
      if (event === 'RESUME') this.recordResume(id)
      if (event === 'RESET') this.#updateHeartbeat(id, afterReset)
      if (EVENTS.has(event)) this.#changed(id)
    }
    stop.addEventListener('abort', close)
    if (stop.aborted) close()
    else this.#changed(id)
    await client.closed
    stop.removeEventListener('abort', close)
  }

  #updateHeartbeat(id: string, next: (heartbeat: Heartbeat) => Heartbeat): void {
    const open = this.#open.get(id)
    if (open) open.heartbeat = next(open.heartbeat)
  }

  /** Checks all heartbeats periodically while any machine is monitored. */
  #scheduleTick(): void {
    if (this.#ticking || this.#closed) return
    const begin = this.#clock.monotonic()
    this.#ticking = this.#clock.after(TICK_MS, async () => {
      const elapsed = this.#clock.monotonic() - begin
      await Promise.all([...this.#open].map(([id, open]) => this.#checkHeartbeat(id, open, elapsed).catch(() => {})))
      this.#ticking = null
      if (this.#open.size > 0) this.#scheduleTick()
    })
  }

  async #checkHeartbeat(id: string, open: MonitoredMachine, elapsed: number): Promise<void> {
    const sign = await readHeartbeatFile(open.paths.ready)
    if (!sign) return
    const before = open.heartbeat
    open.heartbeat = updateHeartbeat(before, sign, elapsed)
    if (isHung(before) !== isHung(open.heartbeat)) this.#changed(id)
  }

  #watchReady(id: string, path: string, stop: AbortSignal): void {
    let watcher: FSWatcher
    const check = async () => {
      if (stop.aborted || !(await hasSignaledReady(path)) || stop.aborted) return
      watcher.close()
      this.#changed(id)
    }
    try {
      watcher = watch(path, () => void check().catch(() => {}))
    } catch (error) {
      this.#log.warn({ instance: id, error: String(error) }, 'ready file cannot be watched')
      return
    }
    watcher.on('error', () => watcher.close())
    stop.addEventListener('abort', () => watcher.close())
    void check().catch(() => {})
  }
}
