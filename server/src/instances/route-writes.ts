/** What the routes of instances share: path parameters, changes with `If-Match`, and dry runs. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Static, Type } from 'typebox'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Outbox } from '../events/outbox.ts'
import { checkIfMatch } from '../http/etag.ts'
import { Id } from '../http/schemas.ts'
import { changed, write } from '../writes/write.ts'
import type { Changed, Target } from './change.ts'
import { previewWrite } from './dry-run.ts'
import { present } from './present.ts'
import type { InstanceContext } from './store.ts'

export const tags = ['Instances']
export const params = Type.Object({ id: Id('inst', 'ID of the instance.') })

type DryRunRows = Parameters<typeof previewWrite>[5]
type InstanceChange = (tx: Transaction, context: Deps & InstanceContext, target: Target) => Promise<Changed>

/** Executes a change of the instance in the path, or its dry run, and sends the response. */
export function changeInstance(
  deps: Deps,
  request: FastifyRequest,
  reply: FastifyReply,
  status: 200 | 202,
  change: InstanceChange,
): Promise<never> {
  return write(deps, request, reply, async (tx, outbox) => {
    const target: Target = {
      principal: request.principal,
      id: (request.params as Static<typeof params>).id,
      request_id: request.id,
      checkVersion: (version) => checkIfMatch(request.headers['if-match'], { version }),
    }
    const { before, after } = await change(tx, { ...deps, outbox }, target)
    if ((request.query as { dry_run?: boolean }).dry_run)
      return preview(deps, request, tx, outbox, { before, after, status })
    const shown = present(after, deps.config)
    return changed(status, target.id, before === after ? shown : present(before, deps.config), shown)
  })
}

/** The response of a dry run of this request. */
export function preview(deps: Deps, request: FastifyRequest, tx: Transaction, outbox: Outbox, rows: DryRunRows) {
  const { operationId = '' } = request.routeOptions.schema as { operationId?: string }
  return previewWrite(deps, tx, outbox, request.principal, operationId, rows)
}
