/**
 * The way of every write: one transaction with its effect, its events, its entry in the audit log and, where the client
 * gave an Idempotency-Key, its answer. So none of these can be there without the others, wherever a crash falls.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { auditEntry } from '../audit/entry.ts'
import { actorOf } from '../audit/refusal.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { type Outbox, withOutbox } from '../events/outbox.ts'
import { newId } from '../lib/id.ts'
import { etagOf, sendText } from './etag.ts'
import { idempotencyKeyOf, lockKey, type StoredResponse, storeResponse } from './idempotency.ts'

/** What a write did, and what it answers. */
export type Outcome = {
  status: number
  /** Identifier of what it was about. */
  resource: string
  /** The resource as the API showed it before and shows it after; null where there was or is none. */
  before: object | null
  after: object | null
  /** The answer, where it is not `after`; null: no body. */
  body?: object | null
  /** Address of what was made. */
  location?: string
  /** Fields of the answer that are shown this once: they are stored nowhere, so a repetition does not have them. */
  secrets?: string[]
  /** What is to be done in this process once it is committed. */
  committed?: () => void
}

/** 201 with what was made. */
export const created = (after: { id: string }, location: string): Outcome => {
  return { status: 201, resource: after.id, before: null, after, location }
}

/** What a resource was and is. */
export const changed = (status: 200 | 202, resource: string, before: object, after: object): Outcome => {
  return { status, resource, before, after }
}

/** 204: it is gone. */
export const removed = (before: { id: string }): Outcome => {
  return { status: 204, resource: before.id, before, after: null }
}

/** Carries out a write and answers it, or answers a repetition with what the first one was told. */
export async function write(
  deps: Deps,
  request: FastifyRequest,
  reply: FastifyReply,
  effect: (tx: Transaction, outbox: Outbox) => Promise<Outcome>,
): Promise<never> {
  const { principal } = request
  if ((request.query as { dry_run?: boolean }).dry_run) {
    const outcome = await withOutbox(deps, principal, effect, { dry_run: true })
    return send(reply, responseOf(outcome, false))
  }
  const key = idempotencyKeyOf(request)
  const begin = deps.clock.monotonic()
  const done = await withOutbox(deps, principal, async (tx, outbox) => {
    const stored = key && (await lockKey(tx, principal.environment_id, key))
    if (stored) return { stored }
    const outcome = await effect(tx, outbox)
    const changed = outcome.before !== outcome.after
    if (changed) outbox.audit = auditEntryOf(deps, request, outcome)
    if (key) await storeResponse(tx, principal.environment_id, key, responseOf(outcome, true))
    return { outcome }
  }).finally(() => {
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

/** The text is sent as it is: what was stored and what was just made go out by the same bytes. */
function send(reply: FastifyReply, { status, headers, body }: StoredResponse): never {
  reply.code(status).headers(headers)
  return body === null ? (reply.send() as never) : sendText(reply, body)
}
