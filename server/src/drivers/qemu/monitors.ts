/**
 * Hears at once what changes: for each running machine one connection to its monitor socket (power off, panic, disk
 * error; its end is the end of the process) and a watch on the file that the guest announces itself in. All of it is a
 * hint: it only says "look again". A socket can close a few milliseconds before the process is gone, and a look in
 * between would see a live machine, so the end is announced when it has come. Nothing a guest does makes the hints a
 * flood: the ready file is watched until its first line, and only events that change a machine's state count.
 *
 * It also remembers what only somebody who listens can know: when a machine went down, and how long its guest has been
 * silent (heartbeat.ts).
 */
import { type FSWatcher, watch } from 'node:fs'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { readHead } from './console-log.ts'
import {
  afterPause,
  afterReset,
  type Heartbeat,
  isHung,
  NO_HEARTBEAT,
  readHeartbeatFile,
  TICK_MS,
  updateHeartbeat,
} from './heartbeat.ts'
import type { MonitorState } from './machine.ts'
import type { MachinePaths } from './machine-files.ts'
import { isAlive, type ProcessIdentity, waitForEnd } from './process.ts'
import { QmpClient } from './qmp.ts'

const EVENTS = new Set(['SHUTDOWN', 'GUEST_PANICKED', 'BLOCK_IO_ERROR', 'STOP', 'RESUME'])
/** Events that begin the time in which a guest is down. */
const FAILURES = new Set(['GUEST_PANICKED', 'BLOCK_IO_ERROR'])
const CONNECT_MS = 2000
/** A new process opens its socket within tens of milliseconds; later attempts are for one that hangs. */
const FIRST_RETRY_MS = 10
const LAST_RETRY_MS = 1000
const MAX_ATTEMPTS = 60
const END_MS = 2000

/** True once the guest of this run has said that it is up. */
export async function hasSignaledReady(path: string): Promise<boolean> {
  return /^ready [!-~]+\r?\n/.test(await readHead(path, 128))
}

type MonitoredMachine = { process: ProcessIdentity; stop: AbortController; paths: MachinePaths; heartbeat: Heartbeat }

export class Monitors {
  readonly #clock: Clock
  readonly #log: Log
  readonly #changed: (id: string) => void
  readonly #open = new Map<string, MonitoredMachine>()
  /** When machines went down that were listened to; until they are started again or forgotten. */
  readonly #downSince = new Map<string, Date>()
  #ticking: { cancel(): void } | null = null
  #closed = false

  constructor(clock: Clock, log: Log, changed: (id: string) => void) {
    this.#clock = clock
    this.#log = log
    this.#changed = changed
  }

  /** Starts to listen to this process of the machine; the same one again changes nothing. */
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

  /** Stops to listen, and forgets what was heard. */
  remove(id: string): void {
    this.detach(id)
    this.#downSince.delete(id)
  }

  /** What was heard of this machine beside its present state. */
  async monitorState(id: string): Promise<MonitorState> {
    const open = this.#open.get(id)
    const hung = open !== undefined && isHung(open.heartbeat)
    // The last sign of life is the file's time.
    const silentSince = hung ? (await readHeartbeatFile(open.paths.ready))?.at : null
    return { hung, down_since: this.#downSince.get(id) ?? silentSince ?? null }
  }

  /** Notes since when a machine is down, unless that is known. */
  recordFailure(id: string, at: Date): void {
    if (!this.#downSince.has(id)) this.#downSince.set(id, at)
  }

  /** A machine goes on after a pause. */
  recordResume(id: string): void {
    this.#downSince.delete(id)
    this.#expect(id, afterPause)
  }

  /** Machines that are listened to. */
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
      if (!(await isAlive(process))) break
      await this.#clock.sleep(delay, stop)
      delay = Math.min(delay * 2, LAST_RETRY_MS)
    }
    if (!stop.aborted) this.#changed(id)
  }

  /** Passes events on until the connection or our interest ends. What happened before it was open is covered by one hint. */
  async #follow(id: string, client: QmpClient, stop: AbortSignal): Promise<void> {
    const close = () => client.close()
    client.onEvent = ({ event }) => {
      if (FAILURES.has(event)) this.recordFailure(id, this.#clock.now())
      if (event === 'RESUME') this.recordResume(id)
      if (event === 'RESET') this.#expect(id, afterReset)
      if (EVENTS.has(event)) this.#changed(id)
    }
    stop.addEventListener('abort', close)
    if (stop.aborted) close()
    else this.#changed(id)
    await client.closed
    stop.removeEventListener('abort', close)
  }

  #expect(id: string, next: (heartbeat: Heartbeat) => Heartbeat): void {
    const open = this.#open.get(id)
    if (open) open.heartbeat = next(open.heartbeat)
  }

  /** Looks at the heartbeats of all while there are any. */
  #scheduleTick(): void {
    if (this.#ticking || this.#closed) return
    const begin = this.#clock.monotonic()
    this.#ticking = this.#clock.after(TICK_MS, async () => {
      const elapsed = this.#clock.monotonic() - begin
      await Promise.all([...this.#open].map(([id, open]) => this.#beat(id, open, elapsed).catch(() => {})))
      this.#ticking = null
      if (this.#open.size > 0) this.#scheduleTick()
    })
  }

  async #beat(id: string, open: MonitoredMachine, elapsed: number): Promise<void> {
    const sign = await readHeartbeatFile(open.paths.ready)
    if (!sign) return
    const before = open.heartbeat
    open.heartbeat = updateHeartbeat(before, sign, elapsed)
    if (isHung(before) !== isHung(open.heartbeat)) this.#changed(id)
  }

  #watchReady(id: string, path: string, stop: AbortSignal): void {
    let watcher: FSWatcher
    const look = async () => {
      if (stop.aborted || !(await hasSignaledReady(path)) || stop.aborted) return
      watcher.close()
      this.#changed(id)
    }
    try {
      watcher = watch(path, () => void look().catch(() => {}))
    } catch (error) {
      this.#log.warn({ instance: id, error: String(error) }, 'ready file cannot be watched')
      return
    }
    watcher.on('error', () => watcher.close())
    stop.addEventListener('abort', () => watcher.close())
    void look().catch(() => {})
  }
}
