/**
 * Client of QEMU's machine protocol: one JSON object per line over a unix socket. QEMU is not trusted to behave (it runs
 * a stranger's guest): every wait has a deadline, a line has a greatest length, so has the list of open commands, and
 * whatever does not parse ends the connection. A connection that missed a deadline is closed, never used again. QEMU
 * serves one client per socket and leaves a second waiting silently; hence two sockets per machine, and `close` always.
 */
import { connect, type Socket } from 'node:net'
import type { Clock } from '../../lib/clock.ts'

export type QmpEvent = { event: string; data: Record<string, unknown> }

/** The other side answered with an error of its own; the connection is fine. */
export class QmpCommandError extends Error {
  override name = 'QmpCommandError'
}
/** No usable connection: refused, closed, too slow, or not speaking the protocol. */
export class QmpConnectionError extends Error {
  override name = 'QmpConnectionError'
}

const MAX_LINE_BYTES = 1024 * 1024
const MAX_OPEN_COMMANDS = 16

type PendingCommand = { resolve(value: unknown): void; reject(error: Error): void; timer: { cancel(): void } }

export class QmpClient {
  readonly #socket: Socket
  readonly #clock: Clock
  readonly #waiting = new Map<number, PendingCommand>()
  readonly #greeting = Promise.withResolvers<void>()
  readonly #closed = Promise.withResolvers<void>()
  #rest: Buffer[] = []
  #restBytes = 0
  #next = 1
  #failure: Error | null = null
  /** Called for each event, at once and in order. */
  onEvent: (event: QmpEvent) => void = () => {}

  private constructor(socket: Socket, clock: Clock) {
    this.#socket = socket
    this.#clock = clock
    this.#greeting.promise.catch(() => {})
    socket.on('data', (chunk: Buffer) => this.#receive(chunk))
    socket.on('error', (error) => this.#fail(error.message, error))
    socket.on('close', () => this.#fail('connection closed'))
  }

  /** Connects and leaves negotiation mode, all within one deadline. */
  static async connect(path: string, deadlineMs: number, clock: Clock): Promise<QmpClient> {
    const client = new QmpClient(connect(path), clock)
    const timer = clock.after(deadlineMs, () => client.#fail(`not ready within ${deadlineMs} ms`))
    try {
      await client.#greeting.promise
      await client.execute('qmp_capabilities', {}, deadlineMs)
      return client
    } finally {
      timer.cancel()
    }
  }

  /** Runs one command. Rejects with QmpCommandError when QEMU says no, with QmpConnectionError for everything else. */
  execute(command: string, args: object, deadlineMs: number): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure)
    if (this.#waiting.size >= MAX_OPEN_COMMANDS) return Promise.reject(new QmpConnectionError('too many open commands'))
    const id = this.#next++
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    const timer = this.#clock.after(deadlineMs, () => this.#fail(`${command}: no answer within ${deadlineMs} ms`))
    this.#waiting.set(id, { resolve, reject, timer })
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    return promise
  }

  /** Resolves when the connection has ended, for whatever reason. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  close(): void {
    this.#fail('closed by us')
  }

  #receive(chunk: Buffer): void {
    for (let start = 0; !this.#failure; ) {
      const end = chunk.indexOf(10, start)
      const part = chunk.subarray(start, end < 0 ? undefined : end)
      this.#rest.push(part)
      this.#restBytes += part.length
      if (this.#restBytes > MAX_LINE_BYTES) this.#fail('line too long')
      if (end < 0 || this.#failure) return
      const line = Buffer.concat(this.#rest).toString('utf8')
      this.#rest = []
      this.#restBytes = 0
      start = end + 1
      if (line.trim() !== '') this.#handle(parseMessage(line))
    }
  }

  #handle(message: Message): void {
    if (message.kind === 'greeting') this.#greeting.resolve()
    else if (message.kind === 'event') this.onEvent(message.event)
    else if (message.kind === 'answer' && this.#waiting.has(message.id)) this.#settle(message.id, message.answer)
    else this.#fail('not the machine protocol')
  }

  #settle(id: number, answer: Reply): void {
    const waiting = this.#waiting.get(id)!
    this.#waiting.delete(id)
    waiting.timer.cancel()
    if ('error' in answer) waiting.reject(answer.error)
    else waiting.resolve(answer.value)
  }

  #fail(reason: string, cause?: Error): void {
    if (this.#failure) return
    this.#failure = new QmpConnectionError(reason, { cause })
    this.#rest = []
    this.#socket.destroy()
    this.#greeting.reject(this.#failure)
    for (const waiting of this.#waiting.values()) {
      waiting.timer.cancel()
      waiting.reject(this.#failure)
    }
    this.#waiting.clear()
    this.#closed.resolve()
  }
}

type Reply = { value: unknown } | { error: QmpCommandError }
type Message =
  | { kind: 'greeting' }
  | { kind: 'event'; event: QmpEvent }
  | { kind: 'answer'; id: number; answer: Reply }
  | { kind: 'garbage' }

/** Sorts one line of the protocol; whatever has not the form of a message is garbage. */
export function parseMessage(line: string): Message {
  const message = parseObject(line)
  if (!message) return { kind: 'garbage' }
  if ('QMP' in message) return { kind: 'greeting' }
  const { event, data, id, error } = message
  if (typeof event === 'string') return { kind: 'event', event: { event, data: asObject(data) ?? {} } }
  if (typeof id !== 'number') return { kind: 'garbage' }
  if ('return' in message) return { kind: 'answer', id, answer: { value: message.return } }
  const description = asObject(error)?.desc
  const text = typeof description === 'string' ? description.slice(0, 500) : 'unknown error'
  return { kind: 'answer', id, answer: { error: new QmpCommandError(text) } }
}

function parseObject(line: string) {
  try {
    return asObject(JSON.parse(line))
  } catch {
    return null
  }
}

const asObject = (value: unknown) =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null
