/**
 * Nobody holds a connection for longer than it is of use: not by headers or a body that trickle in, not by an answer
 * that is not read, not by silence; and no handler keeps a client waiting beyond the deadline of its route.
 *
 * When the process is being stopped, what is being waited for ends early and in order: the answer says how things are.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../lib/clock.ts'
import { ApiError } from '../lib/errors.ts'

/** Real milliseconds. */
export const TIMEOUTS = {
  /** From the connection, or the answer before, until the headers are complete. */
  headers_ms: 30_000,
  /** From the headers until the body is complete; routes may have another (`body_deadline_ms`). */
  body_ms: 30_000,
  /** From the headers until the answer begins; routes may have another (`answer_deadline_ms`). */
  answer_ms: 30_000,
  /** Without a byte in either direction: longer than the longest poll (60 s). */
  silence_ms: 90_000,
  /** Between two requests of a connection. */
  keep_alive_ms: 65_000,
  /** How often the first two are looked at. */
  check_ms: 5_000,
  /** How long a body may still arrive once the process is being stopped. */
  stopping_body_ms: 3_000,
}
export type Timeouts = typeof TIMEOUTS

/** Ends a request whose body trickles in, or has not come when the process must go. */
export function limitBodyTime(
  request: FastifyRequest,
  reply: FastifyReply,
  { clock, stopping }: { clock: Clock; stopping: AbortSignal },
  timeouts: Timeouts,
): void {
  const { raw } = request
  if (raw.method === 'GET' || raw.method === 'HEAD' || raw.complete) return
  const end = (error: ApiError) => {
    // Whoever reads the body sees the error, and the socket carries the answer. Without a reader the answer has gone out.
    if (raw.listenerCount('error') === 0) raw.destroy()
    else raw.emit('error', error)
  }
  const late = () => end(new ApiError('request_timeout', TOO_SLOW, { headers: { connection: 'close' } }))
  const timers = [clock.after(request.routeOptions.config.body_deadline_ms ?? timeouts.body_ms, late)]
  const hurry = () => timers.push(clock.after(timeouts.stopping_body_ms, () => end(shuttingDown())))
  if (stopping.aborted) hurry()
  else stopping.addEventListener('abort', hurry)
  const done = () => {
    stopping.removeEventListener('abort', hurry)
    for (const timer of timers) timer.cancel()
  }
  raw.once('end', done)
  raw.once('close', done)
  // A request that was refused, and whose body nobody reads, comes to no end of its own.
  reply.raw.once('close', done)
}

/** Requests are looked at together, once in so long: most have been answered then and never cost a timer. */
const GATHER_MS = 100

export type ResponseDeadline = {
  /** A request has come. */
  asked(reply: FastifyReply): void
  /** It has been answered; what is not told here is seen at the next look. */
  answered(reply: FastifyReply): void
}

/** Answers for handlers that do not. What they were doing may still be done. */
export function createResponseDeadline(clock: Clock, timeouts: Timeouts): ResponseDeadline {
  // Not a list that is emptied at each look: thousands of answered requests would be kept from the garbage collector.
  const young = new Set<FastifyReply>()
  let isLooking = false

  function look(): void {
    isLooking = false
    for (const reply of young) {
      if (reply.sent || reply.raw.destroyed) continue
      const { answer_deadline_ms, body_deadline_ms = 0 } = reply.routeOptions.config
      const deadline = Math.max(answer_deadline_ms ?? timeouts.answer_ms, body_deadline_ms)
      const timer = clock.after(deadline - GATHER_MS, () => answer(reply))
      reply.raw.once('close', timer.cancel)
    }
    young.clear()
  }

  function answer(reply: FastifyReply): void {
    if (reply.sent || reply.raw.headersSent) return
    const detail = 'This takes too long. It may still be done: look at the resource before you try again.'
    void reply.send(new ApiError('unavailable', detail, { headers: { 'retry-after': '5' } }))
  }

  return {
    asked(reply) {
      young.add(reply)
      if (isLooking) return
      isLooking = true
      clock.after(GATHER_MS, look)
    },
    answered: (reply) => void young.delete(reply),
  }
}

/**
 * A signal for whoever waits on behalf of a request: it aborts when the client has left, or when the process is being
 * stopped. Call `done` when nobody waits any more.
 */
export function detachAbort(request: FastifyRequest['raw'], stopping: AbortSignal) {
  const over = new AbortController()
  const abort = () => over.abort()
  if (stopping.aborted) abort()
  stopping.addEventListener('abort', abort)
  request.once('close', abort)
  const done = () => {
    stopping.removeEventListener('abort', abort)
    request.off('close', abort)
  }
  return { signal: over.signal, done }
}

const TOO_SLOW = 'The body did not arrive in time. Send it faster or in one piece.'

function shuttingDown(): ApiError {
  const detail = 'The service is being restarted, and the body had not arrived. Send the request again in a moment.'
  return new ApiError('unavailable', detail, { headers: { connection: 'close', 'retry-after': '5' } })
}
