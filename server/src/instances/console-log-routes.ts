import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import type { App } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { createConsoleLogs } from './console-log.ts'
import { params, tags } from './route-writes.ts'
import { find } from './store.ts'

/** The console log, whole, its end, or as a stream. */
export function consoleLogRoute(app: App, deps: Deps): void {
  const readConsoleLog = createConsoleLogs(deps)
  app.get(
    '/v2/instances/:id/console_log',
    {
      config: { scope: 'instances:read' },
      schema: {
        operationId: 'getInstanceConsoleLog',
        summary: 'Read the serial console',
        description: 'Returns the output of the serial console as plain text.',
        tags,
        params,
        querystring: Type.Object(
          {
            tail: Type.Optional(
              Type.Integer({ minimum: 1, maximum: 10_000, description: 'Return only this many lines from the end.' }),
            ),
            follow: Type.Optional(
              Type.Boolean({
                default: false,
                description: 'Keep the connection open and stream new output. At most 20 streams per key.',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: { description: 'The console log.', content: { 'text/plain': { schema: Type.String() } } } },
      },
    },
    async (request, reply) => {
      const { environment_id } = request.principal
      const row = await find(deps.sql.as(environment_id), environment_id, request.params.id)
      if (!row) throw notFound('instance', request.params.id)
      const { principal, raw } = request
      const log = await readConsoleLog(row, request.query, { principal, raw, response: reply.raw })
      reply.type('text/plain; charset=utf-8').header('x-content-type-options', 'nosniff')
      return reply.send(log as never)
    },
  )
}
