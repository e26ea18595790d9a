/** Writes refused requests to the audit log, in a separate transaction, because that of the request was rolled back. */
import type { FastifyRequest } from 'fastify'
import type { Deps } from '../deps.ts'
import { withOutbox } from '../events/outbox.ts'
import type { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { auditEntry, type Entry } from './entry.ts'

type Actor = Pick<Entry, 'created_at' | 'key_id' | 'address' | 'request_id' | 'req_id' | 'action'>

/** The actor and the action of a request. */
export function actorOf(request: FastifyRequest, now: Date): Actor {
  return {
    created_at: now.toISOString(),
    key_id: request.principal.key_id,
    address: request.client_address,
    request_id: request.id,
    req_id: request.req_id,
    action: (request.routeOptions.schema as { operationId?: string } | undefined)?.operationId ?? '',
  }
}

/**
 * Records a refused write. Omitted are requests without a valid key (401, also if it or its project ended while the
 * request ran), requests that were not processed (timeout,
 * rate limit, Idempotency-Key in flight), and server errors (5xx).
 */
export async function auditRefusal(deps: Deps, request: FastifyRequest, error: ApiError): Promise<void> {
  const isRead = request.method === 'GET' || request.method === 'HEAD'
  const unprocessed =
    error.status >= 500 || [401, 408, 429].includes(error.status) || error.code === 'idempotency_in_flight'
  if (isRead || !request.principal || request.is404 || unprocessed) return
  const { id: resource = null } = (request.params ?? {}) as { id?: string }
  const entry = auditEntry({
    id: newId('aud', deps.random),
    ...actorOf(request, deps.clock.now()),
    resource: resource?.slice(0, 100) ?? null,
    outcome: 'refused',
    status: error.status,
    code: error.code,
    before: null,
    after: null,
  })
  await withOutbox(deps, request.principal, async (_tx, outbox) => {
    outbox.audit = entry
  })
}
