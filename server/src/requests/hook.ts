/**
 * Records each request when its response has been sent, or when the client has disconnected before that. Everything here
 * is synchronous and cheap, because it is part of every request.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Deps } from '../deps.ts'
import type { App } from '../http/types.ts'
import type { NewRequest } from './row.ts'

const MAX_USER_AGENT = 256

type Recorded = FastifyRequest & { recorded?: boolean }

/** Records requests; the caller runs `sending` before a response is sent and `sent` afterwards. */
export function requestRecorder(app: App, deps: Pick<Deps, 'requests' | 'clock'>) {
  app.decorateRequest('problem_code', null)
  app.decorateRequest('recorded', false)
  app.decorateRequest('transaction', null)
  return {
    sending(request: FastifyRequest, reply: FastifyReply, payload: unknown): void {
      const { raw } = reply
      if (raw.destroyed) record(deps, request, reply, true)
      // A stream often ends because the client disconnects, after which `sent` is not called.
      else if (isStream(payload)) raw.once('close', () => record(deps, request, reply, !raw.writableFinished))
    },
    sent: (request: FastifyRequest, reply: FastifyReply): void => record(deps, request, reply, false),
  }
}

/** Records a request that is answered before routing, so without hooks. */
export function recordWithoutHooks(
  deps: Pick<Deps, 'requests' | 'clock'>,
  request: FastifyRequest,
  reply: FastifyReply,
) {
  reply.raw.once('close', () => record(deps, request, reply, !reply.raw.writableFinished))
}

function record(
  { requests, clock }: Pick<Deps, 'requests' | 'clock'>,
  request: Recorded,
  reply: FastifyReply,
  aborted: boolean,
) {
  if (request.recorded) return
  request.recorded = true
  const { method, principal, transaction } = request
  const status = reply.statusCode
  // Requests without a valid key and rate-limited ones can arrive in any number, so they are sampled as reads are.
  const kept = principal != null && status !== 429 && !(isRead(method) && status < 400)
  const sample_rate = kept ? 1 : requests.sample()
  if (sample_rate === 0) return
  const duration_ms = Math.max(0, reply.elapsedTime)
  const begin = clock.monotonic() - duration_ms
  const row: NewRequest = {
    id: request.req_id,
    environment_id: principal?.environment_id ?? null,
    request_id: request.id,
    at: Math.round(clock.now().getTime() - duration_ms),
    key_id: principal?.key_id ?? null,
    method,
    route: request.is404 ? null : (request.routeOptions.url ?? null),
    resource: resourceOf(request, reply),
    status,
    code: request.problem_code,
    duration_ms,
    address: request.client_address ?? '',
    user_agent: request.headers['user-agent']?.slice(0, MAX_USER_AGENT).replace(/[^\x20-\x7e]/g, '?') ?? null,
    aborted,
    sample_rate,
    transactions: transaction && [[transaction.begin - begin, transaction.end - transaction.begin]],
  }
  requests.request(row, kept)
}

/** The ID in the path, or at the end of the Location header of a new resource. Values that cannot be IDs are omitted. */
function resourceOf(request: FastifyRequest, reply: FastifyReply): string | null {
  const id = (request.params as { id?: string } | undefined)?.id
  const location = id === undefined && reply.statusCode === 201 ? reply.getHeader('location') : undefined
  const named = id ?? (typeof location === 'string' ? location.slice(location.lastIndexOf('/') + 1) : undefined)
  return named !== undefined && /^[A-Za-z0-9._-]{1,64}$/.test(named) ? named : null
}

const isRead = (method: string): boolean => method === 'GET' || method === 'HEAD' || method === 'OPTIONS'

const isStream = (payload: unknown): boolean =>
  typeof payload === 'object' && payload !== null && typeof (payload as { pipe?: unknown }).pipe === 'function'
