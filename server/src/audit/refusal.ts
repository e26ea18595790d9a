/** Refused writes in the audit log: a transaction of their own, because that of the write has left nothing. */
import type { FastifyRequest } from 'fastify'
import type { Deps } from '../deps.ts'
import { withOutbox } from '../events/outbox.ts'
import type { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { auditEntry, type Entry } from './entry.ts'

type Actor = Pick<Entry, 'created_at' | 'key_id' | 'address' | 'request_id' | 'req_id' | 'action'>

/** Who makes this request, when and as what. */
export function actorOf(request: FastifyRequest, now: Date): Actor {
  return {
    created_at: now.toISOString(),
    key_id: request.principal.key_id,
    address: request.ip ?? null,
    request_id: request.id,
    req_id: request.req_id,
    action: (request.routeOptions.schema as { operationId?: string } | undefined)?.operationId ?? '',
  }
}

/**
 * Notes a write that was refused. Left out are those of nobody (401), those that were not looked at (their body did not
 * arrive, a limit, another one with the same Idempotency-Key runs), and failures of ours (5xx), which are no refusals.
 */
export async function auditRefusal(deps: Deps, request: FastifyRequest, error: ApiError): Promise<void> {
  const reads = request.method === 'GET' || request.method === 'HEAD'
  const unseen = error.status >= 500 || [408, 429].includes(error.status) || error.code === 'idempotency_in_flight'
  if (reads || !request.principal || request.is404 || unseen) return
  const { id: resource = null } = (request.params ?? {}) as { id?: string }
  const entry = auditEntry({
    id: newId('aud', deps.random),
    ...actorOf(request, deps.clock.now()),
    resource: resource?.slice(0, 100) ?? null,
    ...{ outcome: 'refused', status: error.status, code: error.code, before: null, after: null },
  })
  await withOutbox(deps, request.principal, async (_tx, outbox) => {
    outbox.audit = entry
  })
}
