/**
 * Every write is one transaction with its effect, its events, its audit entry and, for a request with an
 * Idempotency-Key, its response. A crash leaves all of them or none.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { auditEntry } from '../audit/entry.ts'
import { actorOf } from '../audit/refusal.ts'
import { AuthorityChangedError, reauthorize } from '../authority/authority.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { type Outbox, withOutbox } from '../events/outbox.ts'
import { etagOf, sendText } from '../http/etag.ts'
import { idempotencyKeyOf, lockKey, type StoredResponse, storeResponse } from '../http/idempotency.ts'
import { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'

/** Of a write whose key is changed while it runs. */
const ATTEMPTS = 3

/** The result of a write, and its response. */
export type Outcome = {
  status: number
  /** ID of the resource. */
  resource: string
  /** The resource as the API shows it before and after; null where it does not exist. */
  before: object | null
  after: object | null
  /** The response body, if it is not `after`; null: no body. */
  body?: object | null
  /** URL of the created resource. */
  location?: string
  /** Fields of the response that are shown only once: they are not stored, so a replayed response lacks them. */
  secrets?: string[]
  /** Called in this process after the commit. */
  committed?: () => void
}

/** 201 with the created resource. */
export const created = (after: { id: string }, location: string): Outcome => {
  return { status: 201, resource: after.id, before: null, after, location }
}

/** 200 or 202 with the changed resource. */
export const changed = (status: 200 | 202, resource: string, before: object, after: object): Outcome => {
  return { status, resource, before, after }
}

/** 204 for a deleted resource. */
export const removed = (before: { id: string }): Outcome => {
  return { status: 204, resource: before.id, before, after: null }
}

/** Executes a write and sends its response, or sends the stored response of the first request with the same key. */
export async function write(
  deps: Deps,
  request: FastifyRequest,
  reply: FastifyReply,
  effect: (tx: Transaction, outbox: Outbox) => Promise<Outcome>,
): Promise<never> {
  if ((request.query as { dry_run?: boolean }).dry_run) {
    const outcome = await withOutbox(deps, request.principal, effect, { dry_run: true })
    return send(reply, responseOf(outcome, false))
  }
  const begin = deps.clock.monotonic()
  const done = await commit(deps, request, effect).finally(() => {
    request.transaction = { begin, end: deps.clock.monotonic() }
  })
  if (done.stored) {
    request.rate_limits.refund('creates')
    reply.header('idempotent-replayed', 'true')
    return send(reply, done.stored)
  }
  done.outcome.committed?.()
  deps.notifier.changed(done.outcome.resource)
  return send(reply, responseOf(done.outcome, false))
}

type Effect = (tx: Transaction, outbox: Outbox) => Promise<Outcome>
type Done = { stored: StoredResponse; outcome?: never } | { outcome: Outcome; stored?: never }

/** Runs the transaction; once more with the current key if the key of the request was changed in the meantime. */
async function commit(deps: Deps, request: FastifyRequest, effect: Effect): Promise<Done> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await commitOnce(deps, request, effect)
    } catch (error) {
      if (!(error instanceof AuthorityChangedError)) throw error
      await reauthorize(deps.keys, request)
      if (attempt === ATTEMPTS) throw new ApiError('conflict', 'The key of this request is being changed. Retry.')
    }
  }
}

function commitOnce(deps: Deps, request: FastifyRequest, effect: Effect): Promise<Done> {
  const { principal } = request
  const key = idempotencyKeyOf(request)
  const body = async (tx: Transaction, outbox: Outbox): Promise<Done> => {
    const stored = key && (await lockKey(tx, principal.environment_id, key))
    if (stored) return { stored }
    const outcome = await effect(tx, outbox)
    if (outcome.before !== outcome.after) outbox.audit = auditEntryOf(deps, request, outcome)
    if (key) await storeResponse(tx, principal.environment_id, key, responseOf(outcome, true))
    return { outcome }
  }
  return withOutbox(deps, principal, body, { authority: principal })
}

function auditEntryOf(deps: Deps, request: FastifyRequest, { resource, before, after, status }: Outcome) {
  const id = newId('aud', deps.random)
  const actor = actorOf(request, deps.clock.now())
  return auditEntry({ id, ...actor, resource, outcome: 'done', status, code: null, before, after })
}

function responseOf(outcome: Outcome, stored: boolean): StoredResponse {
  const { status, location, after, body = after, secrets = [] } = outcome
  const headers: Record<string, string> = {
    ...(location && { location }),
    ...(body && { etag: etagOf(after ?? body) }),
    ...(secrets.length > 0 && { 'cache-control': 'no-store' }),
  }
  if (body === null) return { status, headers, body: null }
  const shown = stored && secrets.length > 0 ? withoutSecrets(body, secrets) : body
  return { status, headers, body: JSON.stringify(shown) }
}

function withoutSecrets(body: object, secrets: string[]): object {
  const rest = Object.entries(body).filter(([name]) => !secrets.includes(name))
  return { ...Object.fromEntries(rest), secret_available: false }
}

/** Sends the body text unchanged, so that a replayed response has the same bytes. */
function send(reply: FastifyReply, { status, headers, body }: StoredResponse): never {
  reply.code(status).headers(headers)
  return body === null ? (reply.send() as never) : sendText(reply, body)
}
