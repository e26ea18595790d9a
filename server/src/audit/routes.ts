import { Readable } from 'node:stream'
import { Type } from 'typebox'
import { sendPage } from '../http/list.ts'
import { ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { AuditEntry, AuditEntryPage, auditFilters, auditListParameters } from './schema.ts'
import { listEntries, showEntry } from './store.ts'

const tags = ['Audit log']
const EXPORT_PAGE = 1_000

export const auditLog: Resource = {
  tag: { name: 'Audit log', description: 'Which key changed which resource, and how.' },
  schemas: [AuditEntry, AuditEntryPage],
  routes(app, deps) {
    app.get(
      '/v2/audit_log',
      {
        config: { scope: 'audit:read' },
        schema: {
          operationId: 'listAuditEntries',
          summary: 'List the audit log',
          description:
            'Lists all writes of the environment, including refused ones, and the searches of its keys in all projects.',
          tags,
          querystring: Type.Object(auditListParameters, { additionalProperties: false }),
          response: { 200: ref(AuditEntryPage) },
        },
      },
      (request, reply) => {
        const { environment_id } = request.principal
        const sql = deps.sql.as(environment_id)
        const select = (window: Parameters<typeof listEntries>[3]) =>
          listEntries(sql, environment_id, request.query, window)
        return sendPage(deps, request, reply, select, showEntry)
      },
    )

    app.get(
      '/v2/audit_log/export',
      {
        config: { scope: 'audit:read' },
        schema: {
          operationId: 'exportAuditLog',
          summary: 'Export the audit log',
          description: 'Returns all entries, oldest first, one JSON object per line.',
          tags,
          querystring: Type.Object(auditFilters, { additionalProperties: false }),
          response: {
            200: { description: 'The entries.', content: { 'application/x-ndjson': { schema: Type.String() } } },
          },
        },
      },
      (request, reply) => {
        const { environment_id } = request.principal
        const sql = deps.sql.as(environment_id)
        async function* lines() {
          for (let after: number | null = null; ; ) {
            const window = { after, descending: false, limit: EXPORT_PAGE }
            const rows = await listEntries(sql, environment_id, request.query, window)
            yield rows.map((row) => `${JSON.stringify(showEntry(row))}\n`).join('')
            if (rows.length < EXPORT_PAGE) return
            after = rows.at(-1)!.ordinal
          }
        }
        return reply.type('application/x-ndjson; charset=utf-8').send(Readable.from(lines()) as never) as never
      },
    )
  },
}
