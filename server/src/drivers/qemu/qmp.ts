/**
 * A client of the QEMU Machine Protocol (QMP): one JSON object per line over a Unix socket. QEMU runs an untrusted guest
 * and is not trusted either: every wait has a deadline, the length of a line and the number of open commands are
 * limited, and a line that does not parse closes the connection. A connection that missed a deadline is closed. QEMU
 * serves one client per socket and keeps a second one waiting; hence each machine has two sockets, and every client must
 * be closed.
 */
import { connect, type Socket } from 'node:net'
import type { Clock } from '../../lib/clock.ts'

export type QmpEvent = { event: string; data: Record<string, unknown> }

/** QEMU returned an error for a command; the connection is still usable. */
export class QmpCommandError extends Error {
  override name = 'QmpCommandError'
}
/** The connection was refused, closed, too slow or violated the protocol. */
export class QmpConnectionError extends Error {
  override name = 'QmpConnectionError'
}
/** QEMU listens, and did not respond in time. */
export class QmpTimeoutError extends QmpConnectionError {
  override name = 'QmpTimeoutError'
}

const MAX_LINE_BYTES = 1024 * 1024
const MAX_OPEN_COMMANDS = 16

type PendingCommand = { resolve(value: unknown): void; reject(error: Error): void; timer: { cancel(): void } }

export class QmpClient {
  readonly #socket: Socket
  readonly #clock: Clock
  readonly #pending = new Map<number, PendingCommand>()
  readonly #greeting = Promise.withResolvers<void>()
  readonly #closed = Promise.withResolvers<void>()
  #rest: Buffer[] = []
  #restBytes = 0
  #next = 1
  #failure: Error | null = null
  /** Called for each event, in order. */
  onEvent: (event: QmpEvent) => void = () => {}

  private constructor(socket: Socket, clock: Clock) {
    this.#socket = socket
    this.#clock = clock
    this.#greeting.promise.catch(() => {})
    socket.on('data', (chunk: Buffer) => this.#receive(chunk))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      // EAGAIN: QEMU has not accepted earlier connections, and its queue is full (unix(7)).
      const Kind = error.code === 'EAGAIN' ? QmpTimeoutError : QmpConnectionError
      this.#fail(new Kind(error.message, { cause: error }))
    })
    socket.on('close', () => this.#fail('connection closed'))
  }

  /** Connects and leaves capabilities negotiation mode, within one deadline. */
  static async connect(path: string, deadlineMs: number, clock: Clock): Promise<QmpClient> {
    const client = new QmpClient(connect(path), clock)
    const timer = clock.after(deadlineMs, () => client.#fail(new QmpTimeoutError(`not ready within ${deadlineMs} ms`)))
    try {
      await client.#greeting.promise
      await client.execute('qmp_capabilities', {}, deadlineMs)
      return client
    } finally {
      timer.cancel()
    }
  }

  /** Runs a command. Rejects with QmpCommandError if QEMU returns an error, otherwise with QmpConnectionError. */
  execute(command: string, args: object, deadlineMs: number): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure)
    if (this.#pending.size >= MAX_OPEN_COMMANDS) return Promise.reject(new QmpConnectionError('too many open commands'))
    const id = this.#next++
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    const timer = this.#clock.after(deadlineMs, () =>
      this.#fail(new QmpTimeoutError(`${command}: no reply within ${deadlineMs} ms`)),
    )
    this.#pending.set(id, { resolve, reject, timer })
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    return promise
  }

  /** Resolves when the connection is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  close(): void {
    this.#fail('closed by the client')
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
    else if (message.kind === 'reply' && this.#pending.has(message.id)) this.#settle(message.id, message.reply)
    else this.#fail('protocol violation')
  }

  #settle(id: number, reply: Reply): void {
    const pending = this.#pending.get(id)!
    this.#pending.delete(id)
    pending.timer.cancel()
    if ('error' in reply) pending.reject(reply.error)
    else pending.resolve(reply.value)
  }

  #fail(reason: string | QmpConnectionError): void {
    if (this.#failure) return
    this.#failure = typeof reason === 'string' ? new QmpConnectionError(reason) : reason
    this.#rest = []
    this.#socket.destroy()
    this.#greeting.reject(this.#failure)
    for (const pending of this.#pending.values()) {
      pending.timer.cancel()
      pending.reject(this.#failure)
    }
    this.#pending.clear()
    this.#closed.resolve()
  }
}

type Reply = { value: unknown } | { error: QmpCommandError }
type Message =
  | { kind: 'greeting' }
  | { kind: 'event'; event: QmpEvent }
  | { kind: 'reply'; id: number; reply: Reply }
  | { kind: 'invalid' }

/** Parses a line of the protocol. */
export function parseMessage(line: string): Message {
  const message = parseObject(line)
  if (!message) return { kind: 'invalid' }
  if ('QMP' in message) return { kind: 'greeting' }
  const { event, data, id, error } = message
  if (typeof event === 'string') return { kind: 'event', event: { event, data: asObject(data) ?? {} } }
  if (typeof id !== 'number') return { kind: 'invalid' }
  if ('return' in message) return { kind: 'reply', id, reply: { value: message.return } }
  const description = asObject(error)?.desc
  const text = typeof description === 'string' ? description.slice(0, 500) : 'unknown error'
  return { kind: 'reply', id, reply: { error: new QmpCommandError(text) } }
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
