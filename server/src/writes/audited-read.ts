/** Reads that are recorded in the audit log: those of the operator across projects. */
import type { FastifyRequest } from 'fastify'
import { auditEntry } from '../audit/entry.ts'
import { actorOf } from '../audit/refusal.ts'
import type { Deps } from '../deps.ts'
import { withOutbox } from '../events/outbox.ts'
import { newId } from '../lib/id.ts'

/** A read and its outcome. */
export type AuditedRead = {
  /** ID of what was found; null for a list, and if nothing was found. */
  resource: string | null
  status: 200 | 404
  /** What was searched for. */
  searched: object
}

/** Adds an entry to the audit log of the key. The caller sends its response afterwards: no response without an entry. */
export async function auditRead(deps: Deps, request: FastifyRequest, read: AuditedRead): Promise<void> {
  const { resource, status, searched } = read
  const entry = auditEntry({
    id: newId('aud', deps.random),
    ...actorOf(request, deps.clock.now()),
    resource,
    outcome: status === 200 ? 'done' : 'refused',
    status,
    code: status === 200 ? null : 'not_found',
    before: null,
    after: searched,
  })
  await withOutbox(deps, request.principal, async (_tx, outbox) => {
    outbox.audit = entry
  })
}
