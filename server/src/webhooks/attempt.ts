/**
 * One HTTP request to an endpoint, within a time budget. Every result is returned as an attempt; nothing is thrown.
 *
 * A connection slot makes one attempt at a time and keeps its connection for the next one. The host name is resolved and
 * checked again for each attempt; the connection is reused only while the IP addresses are the same.
 */
import type { Readable } from 'node:stream'
import type { Deps } from '../deps.ts'
import { checkDestination, type Destination, OutboundError, type OutboundPolicy } from '../lib/outbound.ts'
import { isProtocolError, type OutboundConnection } from '../lib/outbound-connection.ts'
import { rangesFor } from '../lib/tenant-ranges.ts'
import type { Attempt, AttemptError } from './row.ts'
import { headersOf, type Message, sign } from './signature.ts'

/** Real milliseconds that an attempt and its phases may take. */
export type Budget = { attempt_ms: number; dns_ms: number; connect_ms: number }
export const BUDGET: Budget = { attempt_ms: 15_000, dns_ms: 2_000, connect_ms: 5_000 }

/** Bytes of a response body that are read, */
const READ_BYTES = 64 * 1024
/** and bytes that are stored. */
const STORED_BYTES = 4 * 1024
const STORED_HEADERS = 50
const STORED_HEADER_CHARACTERS = 500

type SlotDeps = Pick<Deps, 'clock' | 'config' | 'resolve' | 'openConnection'>

/** A URL, and the opened secrets that sign requests to it, the newest first. */
export type Target = { url: string; secrets: readonly Uint8Array[] }

/** An attempt, and the `Retry-After` header of its response. */
type AttemptResult = { attempt: Attempt; retry_after: string | undefined }

export type ConnectionSlot = {
  attempt(target: Target, message: Message): Promise<AttemptResult>
  /** Aborts the attempt in progress and closes the connection. */
  close(): void
}

/** The destinations that webhooks of the operator's project (`isOperators`) or of another project may have. */
export function policyOf(
  { config, resolve }: Pick<SlotDeps, 'config' | 'resolve'>,
  isOperators: boolean,
  dnsTimeoutMs: number,
): OutboundPolicy {
  const allowedAddresses = rangesFor(config, config.webhook_allow, isOperators)
  return { allowHttp: 'allowed_addresses', allowedAddresses, dnsTimeoutMs, resolve }
}

/** The attempt has exceeded its time budget. */
class BudgetExceeded extends Error {}

type Phase = 'connecting' | 'reached' | 'ready'

/** A connection slot whose attempts stay within the budget. */
export function createConnectionSlot(deps: SlotDeps, isOperators: boolean, budget: Budget): ConnectionSlot {
  return new Slot(deps, isOperators, budget)
}

class Slot implements ConnectionSlot {
  readonly #deps: SlotDeps
  readonly #budget: Budget
  readonly #policy: OutboundPolicy
  readonly #proxy: { host: string; port: number } | undefined
  #kept: { key: string; connection: OutboundConnection } | null = null
  #phase: Phase = 'ready'
  #phaseStart = 0
  /** Milliseconds that the attempt took to connect; null while it uses an open connection. */
  #connectMs: number | null = null
  #running: AbortController | null = null

  constructor(deps: SlotDeps, isOperators: boolean, budget: Budget) {
    this.#deps = deps
    this.#budget = budget
    this.#policy = policyOf(deps, isOperators, budget.dns_ms)
    this.#proxy = proxyOf(deps.config.webhook_proxy)
  }

  async attempt(target: Target, message: Message): Promise<AttemptResult> {
    const { clock, config } = this.#deps
    const started_at = clock.now()
    const start = clock.monotonic()
    const controller = new AbortController()
    this.#running = controller
    const timer = clock.after(this.#budget.attempt_ms, () => controller.abort(new BudgetExceeded()))
    const attempt = newAttempt(started_at, headersOf(message, started_at, config.version))
    const result: AttemptResult = { attempt, retry_after: undefined }
    this.#connectMs = null
    try {
      const destination = await checkDestination(target.url, this.#policy, controller.signal)
      attempt.dns_ms = clock.monotonic() - start
      await this.#exchange(destination, target, message, result, controller.signal)
    } catch (error) {
      attempt.error = errorOf(controller.signal.aborted ? controller.signal.reason : error, this.#phase)
      this.#disconnect()
    }
    timer.cancel()
    this.#running = null
    attempt.connect_ms = this.#connectMs
    attempt.duration_ms = clock.monotonic() - start
    return result
  }

  close(): void {
    this.#running?.abort(new BudgetExceeded())
    this.#disconnect()
  }

  /** Sends the request and records the response in `result`, also when the body is not complete. */
  async #exchange(
    destination: Destination,
    { secrets }: Target,
    message: Message,
    result: AttemptResult,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock } = this.#deps
    const { attempt } = result
    const connection = this.#connect(destination)
    const { request_headers } = attempt
    const signature = sign(message, request_headers['webhook-timestamp']!, secrets)
    const start = clock.monotonic()
    const headers = { ...request_headers, 'webhook-signature': signature }
    const request = connection.request(destination.url, { method: 'POST', headers, body: message.body, signal })
    const response = await unlessAborted(request, signal)
    attempt.first_byte_ms = clock.monotonic() - start - (this.#connectMs ?? 0)
    attempt.response_status = response.status
    attempt.response_headers = storedHeaders(response.headers)
    const header = response.headers['retry-after']
    result.retry_after = Array.isArray(header) ? header[0] : header
    const { isComplete, text } = await readBody(response.body, (part) => {
      attempt.response_body = part
    })
    attempt.response_body = text
    if (!isComplete) this.#disconnect()
    attempt.error = errorOfStatus(response.status)
  }

  #connect(destination: Destination): OutboundConnection {
    const key = `${destination.url.origin} ${[...destination.addresses].sort().join()}`
    if (this.#kept?.key === key) return this.#kept.connection
    this.#disconnect()
    const { clock } = this.#deps
    const connection = this.#deps.openConnection(destination, {
      connectTimeoutMs: this.#budget.connect_ms,
      proxy: this.#proxy,
      observe: (phase) => {
        // A connection without TLS is ready as soon as it is reached.
        if (phase !== 'reached' || this.#phase === 'connecting') this.#phase = phase
        if (phase === 'connecting') this.#phaseStart = clock.monotonic()
        if (phase === 'ready') this.#connectMs = clock.monotonic() - this.#phaseStart
      },
    })
    this.#kept = { key, connection }
    return connection
  }

  #disconnect(): void {
    this.#kept?.connection.close()
    this.#kept = null
  }
}

function newAttempt(started_at: Date, request_headers: Record<string, string>): Attempt {
  return {
    started_at,
    duration_ms: 0,
    dns_ms: null,
    connect_ms: null,
    first_byte_ms: null,
    request_headers,
    response_status: null,
    response_headers: null,
    response_body: null,
    error: null,
  }
}

function errorOfStatus(status: number): AttemptError | null {
  if (status >= 200 && status < 300) return null
  return status >= 300 && status < 400 ? 'redirect' : 'http_status'
}

/** Classifies an error by its type and the phase of the connection. */
function errorOf(error: unknown, phase: Phase): AttemptError {
  if (error instanceof OutboundError) {
    return error.code === 'name_not_resolved' ? 'name_not_resolved' : 'destination_not_allowed'
  }
  if (error instanceof BudgetExceeded) return 'timeout'
  const { code = '' } = error as { code?: string }
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return 'connect_timeout'
  if (phase === 'connecting') return 'connect_failed'
  if (phase === 'reached') return 'tls_failed'
  return isProtocolError(error) ? 'invalid_response' : 'connection_lost'
}

/** Reads the body up to a limit and returns its beginning. `isComplete`: the connection can be reused. */
async function readBody(
  body: Readable,
  onText: (text: string) => void,
): Promise<{ isComplete: boolean; text: string }> {
  const kept: Buffer[] = []
  let size = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    if (size < STORED_BYTES) {
      kept.push(chunk.subarray(0, STORED_BYTES - size))
      onText(textOf(kept))
    }
    size += chunk.length
    if (size > READ_BYTES) return { isComplete: false, text: textOf(kept) }
  }
  return { isComplete: true, text: textOf(kept) }
}

/** PostgreSQL does not store NUL in text. */
const textOf = (parts: Buffer[]) => clean(Buffer.concat(parts).toString('utf8'))
const clean = (text: string) => text.replaceAll('\0', '\ufffd')

function storedHeaders(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const entries = Object.entries(headers).slice(0, STORED_HEADERS)
  return Object.fromEntries(
    entries.map(([name, value]) => [clean(name), clean(String(value)).slice(0, STORED_HEADER_CHARACTERS)]),
  )
}

function proxyOf(text: string | null): { host: string; port: number } | undefined {
  if (text === null) return undefined
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), port: Number(text.slice(colon + 1)) }
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    work.then(resolve, reject)
  })
}
