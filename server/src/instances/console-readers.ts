/**
 * Reads console logs for any number of clients with one reader per log. A stream gets the log as it was when it joined,
 * and then each addition, in buffers that all streams of the log share. A client that reads more slowly than the guest
 * writes would collect additions; its stream ends when it is too far behind.
 */
import type { Clock } from '../lib/clock.ts'

/** Additions that a stream may have to send. */
const MAX_BEHIND_BYTES = 1024 * 1024
const INTERVAL_MS = 500

type Read = () => Promise<Buffer>

class Follower {
  isOver = false
  readonly #parts: Buffer[] = []
  #bytes = 0
  #wake = () => {}

  add(part: Buffer): void {
    if (this.isOver) return
    this.#bytes += part.length
    this.#parts.push(part)
    if (this.#bytes > MAX_BEHIND_BYTES) this.end()
    this.#wake()
  }

  end(): void {
    this.isOver = true
    this.#parts.length = 0
    this.#wake()
  }

  /** The next addition; null at the end. */
  async next(): Promise<Buffer | null> {
    while (!this.isOver && this.#parts.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const part = this.#parts.shift() ?? null
    this.#bytes -= part?.length ?? 0
    return part
  }
}

type Reader = { log: Promise<Buffer>; followers: Set<Follower> }

/** The readers of one process. */
export function createConsoleReaders(clock: Clock) {
  const readers = new Map<string, Reader>()
  const reads = new Map<string, Promise<Buffer>>()

  /** The log; reads of the same log at the same time are one. */
  function read(id: string, from: Read): Promise<Buffer> {
    const running = reads.get(id) ?? from().finally(() => reads.delete(id))
    reads.set(id, running)
    return running
  }

  /** Reads on while there are followers. */
  async function run(id: string, reader: Reader, from: Read): Promise<void> {
    try {
      let before = await reader.log
      while (reader.followers.size > 0) {
        await clock.sleep(INTERVAL_MS)
        const now = await from()
        const added = addition(before, now)
        before = now
        reader.log = Promise.resolve(now)
        if (added.length > 0) for (const follower of reader.followers) follower.add(added)
      }
    } catch {
      // The client opens the stream again and gets the error.
      for (const follower of reader.followers) follower.end()
    } finally {
      if (readers.get(id) === reader) readers.delete(id)
    }
  }

  async function* follow(id: string, from: Read, tail: number | undefined, signal: AbortSignal) {
    const follower = new Follower()
    signal.addEventListener('abort', () => follower.end(), { once: true })
    let reader = readers.get(id)
    if (reader === undefined) {
      reader = { log: read(id, from), followers: new Set() }
      readers.set(id, reader)
      reader.followers.add(follower)
      void run(id, reader, from)
    } else reader.followers.add(follower)
    try {
      yield lastLines(await reader.log, tail)
      for (let part = await follower.next(); part !== null; part = await follower.next()) yield part
    } finally {
      reader.followers.delete(follower)
    }
  }

  return { read, follow }
}

/** The new part of the log. The log is a sliding window, so the new part begins after the end of the old window. */
function addition(before: Buffer, now: Buffer): Buffer {
  if (now.subarray(0, before.length).equals(before)) return now.subarray(before.length)
  const mark = before.subarray(-4096)
  const at = mark.length > 0 ? now.lastIndexOf(mark) : -1
  return at < 0 ? now : now.subarray(at + mark.length)
}

/** The last lines of a log; all of it without a count. */
export function lastLines(log: Buffer, count: number | undefined): Buffer {
  if (count === undefined) return log
  let at = log.length - 1
  for (let lines = 0; at > 0; at--) if (log[at - 1] === 10 && ++lines === count) break
  return log.subarray(Math.max(0, at))
}
