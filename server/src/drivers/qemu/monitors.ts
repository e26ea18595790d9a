/**
 * Hears at once what changes: for each running machine one connection to its monitor socket (power off, panic, disk
 * error; its end is the end of the process) and a watch on the file that the guest announces itself in. All of it is a
 * hint: it only says "look again". A socket can close a few milliseconds before the process is gone, and a look in
 * between would see a live machine, so the end is announced when it has come. Nothing a guest does makes the hints a
 * flood: the ready file is watched until its first line, and only events that change a machine's state count.
 */
import { type FSWatcher, watch } from 'node:fs'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { readHead } from './console-log.ts'
import type { MachinePaths } from './machine-files.ts'
import { isAlive, type ProcessIdentity, waitForEnd } from './process.ts'
import { QmpClient } from './qmp.ts'

const EVENTS = new Set(['SHUTDOWN', 'GUEST_PANICKED', 'BLOCK_IO_ERROR', 'STOP', 'RESUME'])
const CONNECT_MS = 2000
/** A new process opens its socket within tens of milliseconds; later attempts are for one that hangs. */
const FIRST_RETRY_MS = 10
const LAST_RETRY_MS = 1000
const MAX_ATTEMPTS = 60
const END_MS = 2000

/** True once the guest of this run has said that it is up. */
export async function saidReady(path: string): Promise<boolean> {
  return /^ready [!-~]+\r?\n/.test(await readHead(path, 128))
}

export class Monitors {
  readonly #clock: Clock
  readonly #log: Log
  readonly #changed: (id: string) => void
  readonly #open = new Map<string, { process: ProcessIdentity; stop: AbortController; paths: MachinePaths }>()

  constructor(clock: Clock, log: Log, changed: (id: string) => void) {
    this.#clock = clock
    this.#log = log
    this.#changed = changed
  }

  /** Starts to listen to this process of the machine; the same one again changes nothing. */
  attach(id: string, paths: MachinePaths, process: ProcessIdentity): void {
    const open = this.#open.get(id)
    if (open?.process.pid === process.pid && open.process.start_time === process.start_time) return
    this.detach(id)
    const stop = new AbortController()
    this.#open.set(id, { process, stop, paths })
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

  /** Machines that are listened to. */
  paths(): MachinePaths[] {
    return [...this.#open.values()].map((open) => open.paths)
  }

  close(): void {
    for (const id of [...this.#open.keys()]) this.detach(id)
  }

  async #listen(id: string, socket: string, process: ProcessIdentity, stop: AbortSignal): Promise<void> {
    let delay = FIRST_RETRY_MS
    for (let attempt = 0; attempt < MAX_ATTEMPTS && !stop.aborted; attempt++) {
      const client = await QmpClient.connect(socket, CONNECT_MS, this.#clock).catch(() => null)
      if (client) {
        await this.#follow(id, client, stop)
        delay = FIRST_RETRY_MS
        if (!stop.aborted && (await waitForEnd(process, END_MS, this.#clock))) break
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
    client.onEvent = ({ event }) => EVENTS.has(event) && this.#changed(id)
    stop.addEventListener('abort', close)
    if (stop.aborted) close()
    else this.#changed(id)
    await client.closed
    stop.removeEventListener('abort', close)
  }

  #watchReady(id: string, path: string, stop: AbortSignal): void {
    let watcher: FSWatcher
    const look = async () => {
      if (stop.aborted || !(await saidReady(path)) || stop.aborted) return
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
