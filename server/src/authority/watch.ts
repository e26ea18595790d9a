/**
 * Ends requests whose key ends while they run: long polls, streams, uploads, and any other request that takes long. Their
 * keys are read again several times a second, one statement for all of them, so that nothing is served later than a
 * second after a revocation. What a write commits is checked in its transaction (check_authority, in migration 0017).
 */
import { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { disconnect, KEY_ENDED } from '../http/deadlines.ts'
import type { KeyLookup } from '../keys/lookup.ts'
import type { Clock } from '../lib/clock.ts'
import type { ApiError } from '../lib/errors.ts'
import { currentKey, refusalOf } from './authority.ts'

/** Real time between two checks. A request is first checked after one to two of them: most have ended by then. */
const CHECK_MS = 200
/** How long a stream may take to end before its connection is closed. */
const END_MS = 100

export type KeyWatch = {
  /** Call it when a request was authenticated. */
  onRequest(request: FastifyRequest, reply: FastifyReply): void
  /** Call it when the response has been sent. */
  onResponse(request: FastifyRequest): void
}

/** Watches the keys of all requests of this process. */
export function createKeyWatch({ clock, keys }: { clock: Clock; keys: KeyLookup }): KeyWatch {
  let recent = new Map<FastifyRequest, FastifyReply>()
  const older = new Map<FastifyRequest, FastifyReply>()
  let isScheduled = false

  function schedule(): void {
    if (isScheduled || recent.size + older.size === 0) return
    isScheduled = true
    clock.after(CHECK_MS, () => void check())
  }

  async function check(): Promise<void> {
    const requests = [...older]
    for (const [request, reply] of recent) older.set(request, reply)
    recent = new Map()
    // While the database is unavailable nothing is known. The next check finds what has changed.
    await Promise.all(requests.map(([request, reply]) => checkOne(request, reply).catch(() => {})))
    isScheduled = false
    schedule()
  }

  async function checkOne(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (reply.raw.destroyed || reply.raw.writableEnded) return void older.delete(request)
    const refusal = refusalOf(await currentKey(keys, request), request)
    if (refusal === null || !older.delete(request)) return
    end(clock, request, reply, refusal)
  }

  return {
    onRequest(request, reply) {
      recent.set(request, reply)
      schedule()
    },
    onResponse(request) {
      if (!recent.delete(request)) older.delete(request)
    },
  }
}

function end(clock: Clock, request: FastifyRequest, reply: FastifyReply, refusal: ApiError): void {
  const { raw } = request
  if (reply.raw.headersSent) {
    raw.emit(KEY_ENDED)
    clock.after(END_MS, () => void (reply.raw.writableFinished || disconnect(raw)))
    return
  }
  reply.header('connection', 'close')
  const send = () => void (reply.sent || reply.send(refusal))
  // The reader of a body gets the error, and usually sends the response.
  if (isReceiving(request)) {
    raw.emit('error', refusal)
    clock.after(END_MS, send)
  } else send()
  raw.emit(KEY_ENDED)
}

function isReceiving({ method, raw, body }: FastifyRequest): boolean {
  if (method === 'GET' || method === 'HEAD' || raw.complete || raw.readableEnded) return false
  return (body === undefined || body instanceof Readable) && raw.listenerCount('error') > 0
}
