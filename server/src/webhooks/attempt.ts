/**
 * One request to an endpoint, within its budget. Whatever happens comes back as what is to be noted; nothing is thrown.
 *
 * A lane makes one attempt at a time and keeps its connection for the next one, as long as the destination, whose name is
 * resolved and checked again each time, has the same addresses.
 */
import type { Readable } from 'node:stream'
import type { Deps } from '../deps.ts'
import { checkDestination, type Destination, OutboundError, type OutboundPolicy } from '../lib/outbound.ts'
import { isProtocolError, type OutboundConnection } from '../lib/outbound-connection.ts'
import type { Attempt, AttemptError } from './row.ts'
import { headersOf, type Message, sign } from './signature.ts'

/** Real milliseconds that an attempt and its parts may take. */
export type Budget = { attempt_ms: number; dns_ms: number; connect_ms: number }
export const BUDGET: Budget = { attempt_ms: 15_000, dns_ms: 2_000, connect_ms: 5_000 }

/** Of a response so much is read, and so much is kept. */
const READ_BYTES = 64 * 1024
const KEPT_BYTES = 4 * 1024
const KEPT_HEADERS = 50
const KEPT_HEADER_CHARACTERS = 500

type Context = Pick<Deps, 'clock' | 'config' | 'resolve' | 'openConnection'>

/** Where to and by which secrets; opened, the new one first. */
export type Target = { url: string; secrets: readonly Uint8Array[] }

export type Lane = {
  /** `retry_after` is the header of the response. */
  attempt(target: Target, message: Message): Promise<{ attempt: Attempt; retry_after: string | undefined }>
  /** Ends what is under way. */
  close(): void
}

/** Which destinations a webhook may have. */
export function policyOf(
  { config, resolve }: Pick<Context, 'config' | 'resolve'>,
  dnsTimeoutMs: number,
): OutboundPolicy {
  return { allowHttp: 'allowed_addresses', allowedAddresses: config.webhook_allow, dnsTimeoutMs, resolve }
}

/** The attempt's time is over. */
class BudgetSpent extends Error {}

export function createLane(deps: Context, budget: Budget): Lane {
  const { clock } = deps
  const policy = policyOf(deps, budget.dns_ms)
  const proxy = proxyOf(deps.config.webhook_proxy)
  let kept: { key: string; connection: OutboundConnection } | null = null
  let phase: 'connecting' | 'reached' | 'ready' = 'ready'
  let phaseAt = 0
  let connecting: number | null = null
  let running: AbortController | null = null

  function drop(): void {
    kept?.connection.close()
    kept = null
  }

  function connectionTo(destination: Destination): OutboundConnection {
    const key = `${destination.url.origin} ${[...destination.addresses].sort().join()}`
    if (kept?.key === key) return kept.connection
    drop()
    const connection = deps.openConnection(destination, {
      connectTimeoutMs: budget.connect_ms,
      proxy,
      observe: (reached) => {
        // A plain connection can be used in the moment in which it has reached the other side.
        if (reached !== 'reached' || phase === 'connecting') phase = reached
        if (reached === 'connecting') phaseAt = clock.monotonic()
        if (reached === 'ready') connecting = clock.monotonic() - phaseAt
      },
    })
    kept = { key, connection }
    return connection
  }

  return {
    async attempt({ url, secrets }, message) {
      const started_at = clock.now()
      const begin = clock.monotonic()
      const spent = (since = begin) => clock.monotonic() - since
      const controller = new AbortController()
      running = controller
      const alarm = clock.after(budget.attempt_ms, () => controller.abort(new BudgetSpent()))
      const request_headers = headersOf(message, started_at, deps.config.version)
      const attempt: Attempt = {
        ...{ started_at, duration_ms: 0, dns_ms: null, connect_ms: null, first_byte_ms: null, request_headers },
        ...{ response_status: null, response_headers: null, response_body: null, error: null },
      }
      let retry_after: string | undefined
      try {
        const destination = await checkDestination(url, policy, controller.signal)
        attempt.dns_ms = spent()
        connecting = null
        const connection = connectionTo(destination)
        const signature = sign(message, request_headers['webhook-timestamp']!, secrets)
        const asked = clock.monotonic()
        const response = await unlessAborted(
          connection.request(destination.url, {
            method: 'POST',
            headers: { ...request_headers, 'webhook-signature': signature },
            body: message.body,
            signal: controller.signal,
          }),
          controller.signal,
        )
        attempt.first_byte_ms = spent(asked) - (connecting ?? 0)
        attempt.response_status = response.status
        attempt.response_headers = shownHeaders(response.headers)
        const header = response.headers['retry-after']
        retry_after = Array.isArray(header) ? header[0] : header
        const { whole, text } = await readBody(response.body, (part) => {
          attempt.response_body = part
        })
        attempt.response_body = text
        if (!whole) drop()
        attempt.error = errorOfStatus(response.status)
      } catch (error) {
        attempt.error = errorOf(controller.signal.aborted ? controller.signal.reason : error, phase)
        drop()
      }
      alarm.cancel()
      running = null
      attempt.connect_ms = connecting
      attempt.duration_ms = spent()
      return { attempt, retry_after }
    },
    close() {
      running?.abort(new BudgetSpent())
      drop()
    },
  }
}

function errorOfStatus(status: number): AttemptError | null {
  if (status >= 200 && status < 300) return null
  return status >= 300 && status < 400 ? 'redirect' : 'http_status'
}

/** By types and by how far it came, never by texts. */
function errorOf(error: unknown, phase: 'connecting' | 'reached' | 'ready'): AttemptError {
  if (error instanceof OutboundError) {
    return error.code === 'name_not_resolved' ? 'name_not_resolved' : 'destination_not_allowed'
  }
  if (error instanceof BudgetSpent) return 'timeout'
  const { code = '' } = error as { code?: string }
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return 'connect_timeout'
  if (phase === 'connecting') return 'connect_failed'
  if (phase === 'reached') return 'tls_failed'
  return isProtocolError(error) ? 'invalid_response' : 'connection_lost'
}

/** Reads what there is, keeps the beginning. `whole`: it came to its end, and the connection may be used again. */
async function readBody(body: Readable, seen: (text: string) => void): Promise<{ whole: boolean; text: string }> {
  const kept: Buffer[] = []
  let size = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    if (size < KEPT_BYTES) {
      kept.push(chunk.subarray(0, KEPT_BYTES - size))
      seen(textOf(kept))
    }
    size += chunk.length
    if (size > READ_BYTES) return { whole: false, text: textOf(kept) }
  }
  return { whole: true, text: textOf(kept) }
}

/** PostgreSQL's texts hold everything but NUL. */
const textOf = (parts: Buffer[]) => clean(Buffer.concat(parts).toString('utf8'))
const clean = (text: string) => text.replaceAll('\0', '\ufffd')

function shownHeaders(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const entries = Object.entries(headers).slice(0, KEPT_HEADERS)
  return Object.fromEntries(
    entries.map(([name, value]) => [clean(name), clean(String(value)).slice(0, KEPT_HEADER_CHARACTERS)]),
  )
}

function proxyOf(text: string | null): { host: string; port: number } | undefined {
  if (text === null) return undefined
  const at = text.lastIndexOf(':')
  return { host: text.slice(0, at).replace(/^\[(.*)\]$/, '$1'), port: Number(text.slice(at + 1)) }
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    work.then(resolve, reject)
  })
}
