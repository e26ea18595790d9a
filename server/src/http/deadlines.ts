/**
 * Deadlines for connections and requests. A connection is closed when its headers or body arrive too slowly, when the
 * response is not read, or when it is idle. A handler that exceeds the deadline of its route gets a 503 response.
 *
 * On shutdown, pending bodies and responses have a short deadline, and long polls end early with the current state.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../lib/clock.ts'
import { ApiError } from '../lib/errors.ts'

/** Real milliseconds. */
export const TIMEOUTS = {
  /** From the connection, or the previous response, until the headers are complete. */
  headers_ms: 30_000,
  /** From the headers until the body is complete; a route can override it with `body_deadline_ms`. */
  body_ms: 30_000,
  /** From the headers until the response begins; a route can override it with `response_deadline_ms`. */
  response_ms: 30_000,
  /** Without a byte in either direction; longer than the longest long poll (60 s). */
  idle_ms: 90_000,
  /** Between two requests on a connection. */
  keep_alive_ms: 65_000,
  /** How often Node checks the first two. */
  check_ms: 5_000,
  /** For a pending body once shutdown has begun. */
  stopping_body_ms: 3_000,
  /** For a pending response once shutdown has begun: a client gets a 503 instead of a closed connection. */
  stopping_response_ms: 4_000,
}
export type Timeouts = typeof TIMEOUTS

/** Ends a request whose body arrives too slowly, or is still pending at shutdown. */
export function limitBodyTime(
  request: FastifyRequest,
  reply: FastifyReply,
  { clock, stopping }: { clock: Clock; stopping: AbortSignal },
  timeouts: Timeouts,
): void {
  const { raw } = request
  if (raw.method === 'GET' || raw.method === 'HEAD' || raw.complete) return
  const end = (error: ApiError) => {
    // The body has arrived but is not read to its end, as that of a request without one: the deadline of the response applies.
    if (raw.complete) return
    // The reader of the body gets the error and sends the response.
    if (raw.listenerCount('error') > 0) raw.emit('error', error)
    else if (reply.sent || reply.raw.headersSent) raw.destroy()
    // The key of the request is still being looked up, and nothing reads the body yet.
    else void reply.send(error)
  }
  const onTimeout = () => end(new ApiError('request_timeout', BODY_TIMEOUT, { headers: { connection: 'close' } }))
  const timers = [clock.after(request.routeOptions.config.body_deadline_ms ?? timeouts.body_ms, onTimeout)]
  const onShutdown = () => timers.push(clock.after(timeouts.stopping_body_ms, () => end(shuttingDown())))
  if (stopping.aborted) onShutdown()
  else stopping.addEventListener('abort', onShutdown)
  const done = () => {
    stopping.removeEventListener('abort', onShutdown)
    for (const timer of timers) timer.cancel()
  }
  raw.once('end', done)
  raw.once('close', done)
  // A rejected request whose body is not read never emits 'end'.
  reply.raw.once('close', done)
}

/** Event of a request whose key has ended while it runs. */
export const KEY_ENDED = 'cloudnexus.key_ended'

/** New requests are checked in batches: most have a response by then and need no timer of their own. */
const BATCH_MS = 100

export type ResponseDeadline = {
  /** Call it when a request arrives. */
  onRequest(reply: FastifyReply): void
  /** Call it when the response has been sent; optional, since the next check finds it too. */
  onResponse(reply: FastifyReply): void
}

/** Sends 503 for handlers that exceed their deadline, or that of a shutdown. Their work is not cancelled. */
export function createResponseDeadline(
  { clock, stopping }: { clock: Clock; stopping: AbortSignal },
  timeouts: Timeouts,
): ResponseDeadline {
  // A set, so that completed requests can be garbage-collected before the next check.
  const recent = new Set<FastifyReply>()
  const slow = new Set<FastifyReply>()
  let isScheduled = false
  stopping.addEventListener('abort', () => clock.after(timeouts.stopping_response_ms, endAll))

  function check(): void {
    isScheduled = false
    for (const reply of recent) {
      if (reply.sent || reply.raw.destroyed) continue
      const { response_deadline_ms, body_deadline_ms = 0 } = reply.routeOptions.config
      const deadline = Math.max(response_deadline_ms ?? timeouts.response_ms, body_deadline_ms)
      const timer = clock.after(deadline - BATCH_MS, () => sendTimeout(reply, TOO_LONG))
      slow.add(reply)
      reply.raw.once('close', () => {
        timer.cancel()
        slow.delete(reply)
      })
    }
    recent.clear()
  }

  function endAll(): void {
    for (const reply of [...recent, ...slow]) sendTimeout(reply, RESTARTING)
  }

  function sendTimeout(reply: FastifyReply, reason: string): void {
    if (reply.sent || reply.raw.headersSent) return
    const detail = `${reason} The request may still complete: check the resource before you retry.`
    void reply.send(new ApiError('unavailable', detail, { headers: { 'retry-after': '5' } }))
  }

  return {
    onRequest(reply) {
      recent.add(reply)
      if (isScheduled) return
      isScheduled = true
      clock.after(BATCH_MS, check)
    },
    onResponse: (reply) => void recent.delete(reply),
  }
}

/** Closes the connection. A request that a test injects has a socket without `destroy`. */
export function disconnect(request: FastifyRequest['raw']): void {
  request.socket.destroy?.()
  request.destroy()
}

/**
 * A signal that aborts when the client disconnects, the key of the request ends, or shutdown begins. Call `done` when it is
 * no longer needed.
 */
export function detachAbort(request: FastifyRequest['raw'], stopping: AbortSignal) {
  const controller = new AbortController()
  const abort = () => controller.abort()
  if (stopping.aborted) abort()
  stopping.addEventListener('abort', abort)
  request.once('close', abort)
  request.once(KEY_ENDED, abort)
  const done = () => {
    stopping.removeEventListener('abort', abort)
    request.off('close', abort)
    request.off(KEY_ENDED, abort)
  }
  return { signal: controller.signal, done }
}

const TOO_LONG = 'The request took too long.'
const RESTARTING = 'The service is restarting.'
const BODY_TIMEOUT = 'The request body did not arrive in time. Send it faster.'

function shuttingDown(): ApiError {
  const detail = 'The service is restarting and did not receive the complete request body. Retry the request.'
  return new ApiError('unavailable', detail, { headers: { connection: 'close', 'retry-after': '5' } })
}
