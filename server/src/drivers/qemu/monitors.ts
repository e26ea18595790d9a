/**
 * Announces changes of running machines early. For each machine there is one connection to its monitor socket, which
 * reports power off, panic, disk errors and the use of the ready port, and closes when the process ends. Announcements are
 * hints to observe the machine. Because a socket can close a few milliseconds before the process has exited, the end is
 * announced after the exit. A guest cannot cause a flood of hints: that it is ready is announced once, only events that
 * change the state of a machine count, and QEMU reports the use of the port once a second at most.
 *
 * The monitors also read what guests and QEMU write (output.ts, messages.ts), and record what is not visible in the
 * present state: since when a machine is down, and how long its heartbeat has been missing (heartbeat.ts).
 */
import type { Clock } from '../../lib/clock.ts'
import { isAlive, type ProcessIdentity } from '../../lib/processes.ts'
import { READY_PORT } from './command.ts'
import { readTail } from './console-log.ts'
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
import type { Host } from './host.ts'
import type { MachinePaths } from './machine-files.ts'
import { Messages } from './messages.ts'
import { waitForEnd } from './process.ts'
import { QmpClient, QmpTimeoutError } from './qmp.ts'

const EVENTS = new Set(['SHUTDOWN', 'GUEST_PANICKED', 'BLOCK_IO_ERROR', 'STOP', 'RESUME'])
/** Events after which a guest is down. */
const FAILURES = new Set(['GUEST_PANICKED', 'BLOCK_IO_ERROR'])
const CONNECT_MS = 2000
/** A new process opens its socket within tens of milliseconds; later attempts are for a process that hangs. */
const FIRST_RETRY_MS = 10
const LAST_RETRY_MS = 1000
const MAX_ATTEMPTS = 60
const END_MS = 2000
const COMMAND_MS = 1000
/** After the guest has opened the ready port: when to read it. The event that it was closed can be a second late. */
const READY_DELAYS_MS = [0, 5, 10, 20, 40, 80, 160, 320, 640]

/** What only the monitor of a machine observes. */
export type MonitorState = { hung: boolean; down_since: Date | null }

type MonitoredMachine = {
  process: ProcessIdentity
  stop: AbortController
  paths: MachinePaths
  heartbeat: Heartbeat
  /** The connection, if there is one. */
  client: QmpClient | null
  /** Whether QEMU accepts connections and does not respond. */
  unresponsive: boolean
  /** Null if the machine has none, or until they are open. */
  messages: Messages | null
  /** Whether it was announced that the guest is ready. */
  ready: boolean
  /** Whether its ready port is being read. */
  reading: boolean
}

export class Monitors {
  readonly #host: Pick<Host, 'clock' | 'log' | 'output'>
  readonly #clock: Clock
  readonly #changed: (id: string) => void
  readonly #open = new Map<string, MonitoredMachine>()
  /** When monitored machines went down; kept until they are started again or removed. */
  readonly #downSince = new Map<string, Date>()
  #ticking: { cancel(): void } | null = null
  #closed = false

  constructor(host: Pick<Host, 'clock' | 'log' | 'output'>, changed: (id: string) => void) {
    this.#host = host
    this.#clock = host.clock
    this.#changed = changed
  }

  /** Number of monitored machines. */
  get size(): number {
    return this.#open.size
  }

  /**
   * Starts to monitor this process of the machine. No effect if it is already monitored.
   * @param messages those of a machine that has just started; otherwise they are opened
   */
  attach(id: string, paths: MachinePaths, process: ProcessIdentity, messages: Messages | null = null): void {
    const open = this.#open.get(id)
    if (open?.process.pid === process.pid && open.process.start_time === process.start_time) return
    this.remove(id)
    const stop = new AbortController()
    const state = { heartbeat: NO_HEARTBEAT, client: null, unresponsive: false, ready: false, reading: false }
    const machine: MonitoredMachine = { process, stop, paths, messages, ...state }
    this.#open.set(id, machine)
    this.#scheduleTick()
    this.#listen(id, machine)
      .catch((error) => this.#host.log.warn({ instance: id, error: String(error) }, 'machine monitor failed'))
      .finally(() => {
        if (this.#open.get(id) === machine) this.detach(id)
      })
  }

  detach(id: string): void {
    const open = this.#open.get(id)
    if (!open) return
    this.#open.delete(id)
    open.stop.abort()
    const { messages } = open
    open.messages = null
    if (messages)
      void messages
        .collect()
        .catch(() => {})
        .finally(() => messages.close().catch(() => {}))
  }

  /** Reads what the guest of a machine has written since the last time; no effect while QEMU does not respond. */
  async collect(id: string): Promise<void> {
    const open = this.#open.get(id)
    if (open) await this.#collect(id, open)
  }

  /** Pauses all guests that run. Returns how many. */
  async pauseAll(): Promise<number> {
    const paused = await Promise.all([...this.#open.values()].map(({ client }) => (client ? pause(client) : false)))
    return paused.filter(Boolean).length
  }

  /** The last messages of QEMU. */
  async messages(id: string, paths: MachinePaths): Promise<string> {
    const open = this.#open.get(id)
    const text = await open?.messages?.collect().catch(() => null)
    return text ?? (await readTail(paths.log, 2000)).toString('utf8')
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

  close(): void {
    this.#closed = true
    this.#ticking?.cancel()
    for (const id of [...this.#open.keys()]) this.detach(id)
  }

  async #listen(id: string, open: MonitoredMachine): Promise<void> {
    const { process } = open
    const stop = open.stop.signal
    await this.#openMessages(open).catch(() => {})
    let delay = FIRST_RETRY_MS
    for (let attempt = 0; attempt < MAX_ATTEMPTS && !stop.aborted; attempt++) {
      const client = await QmpClient.connect(open.paths.monitor, CONNECT_MS, this.#clock).catch((error) => {
        open.unresponsive = error instanceof QmpTimeoutError
        return null
      })
      if (client) {
        await this.#follow(id, open, client)
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

  async #openMessages(open: MonitoredMachine): Promise<void> {
    if (open.messages) return
    const messages = await Messages.open(open.paths)
    if (open.stop.signal.aborted) await messages?.close()
    else open.messages = messages
  }

  /** Forwards events until the connection closes or `stop` aborts. One hint covers what happened before. */
  async #follow(id: string, open: MonitoredMachine, client: QmpClient): Promise<void> {
    const stop = open.stop.signal
    const close = () => client.close()
    open.client = client
    open.unresponsive = false
    client.onEvent = ({ event, data }) => {
      if (event === 'VSERPORT_CHANGE' && data.id === READY_PORT) void this.#readReadyPort(id, open)
      if (FAILURES.has(event)) this.recordFailure(id, this.#clock.now())
      if (event === 'RESUME') this.recordResume(id)
      if (event === 'RESET') this.#updateHeartbeat(id, afterReset)
      if (EVENTS.has(event)) this.#changed(id)
    }
    stop.addEventListener('abort', close)
    if (stop.aborted) close()
    else this.#changed(id)
    void this.#collect(id, open)
    await client.closed
    open.client = null
    stop.removeEventListener('abort', close)
  }

  #updateHeartbeat(id: string, next: (heartbeat: Heartbeat) => Heartbeat): void {
    const open = this.#open.get(id)
    if (open) open.heartbeat = next(open.heartbeat)
  }

  /**
   * Reads what the guest has written, and announces that it is ready. Never rejects; false if that could not be read for a
   * reason that says nothing about the machine.
   */
  async #collect(id: string, open: MonitoredMachine): Promise<boolean> {
    if (!open.client) return open.unresponsive
    try {
      await this.#host.output.collect(open.client, open.paths)
      if (!open.ready && (await hasSignaledReady(open.paths.ready))) {
        open.ready = true
        if (!open.stop.signal.aborted) this.#changed(id)
      }
      return true
    } catch (error) {
      open.unresponsive = error instanceof QmpTimeoutError
      return open.unresponsive
    }
  }

  /** Reads the ready port of a guest that has opened it, until its line has arrived. */
  async #readReadyPort(id: string, open: MonitoredMachine): Promise<void> {
    if (open.reading) return
    open.reading = true
    const before = await readHeartbeatFile(open.paths.ready).catch(() => null)
    for (const delay of READY_DELAYS_MS) {
      await this.#clock.sleep(delay, open.stop.signal)
      await this.#collect(id, open)
      const now = await readHeartbeatFile(open.paths.ready).catch(() => null)
      if (open.stop.signal.aborted || now?.mark !== before?.mark) break
    }
    open.reading = false
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
    await this.#openMessages(open)
    await open.messages?.collect()
    if (!(await this.#collect(id, open))) return
    const sign = await readHeartbeatFile(open.paths.ready)
    if (!sign) return
    const before = open.heartbeat
    open.heartbeat = updateHeartbeat(before, sign, elapsed)
    if (isHung(before) !== isHung(open.heartbeat)) this.#changed(id)
  }
}

/** True if the guest was running. */
async function pause(client: QmpClient): Promise<boolean> {
  try {
    const { running } = (await client.execute('query-status', {}, COMMAND_MS)) as { running?: boolean }
    if (running) await client.execute('stop', {}, COMMAND_MS)
    return running === true
  } catch {
    return false
  }
}
