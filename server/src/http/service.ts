import { Type } from 'typebox'
import { ApiError } from '../lib/errors.ts'
import type { App } from './types.ts'

/** One part that must work before requests can be served; `problem` says why it does not. */
export type Readiness = { name: string; problem: string | null }

/** What the service says of itself, to anybody. */
export function serviceRoutes(app: App, ready: () => Promise<Readiness[]>): void {
  app.get(
    '/healthz',
    {
      config: { scope: 'none', limits: [] },
      schema: {
        operationId: 'getHealth',
        summary: 'Whether the process lives',
        tags: ['Service'],
        response: { 200: Type.Object({ status: Type.Literal('ok') }, { description: 'It does.' }) },
      },
    },
    async () => ({ status: 'ok' as const }),
  )

  app.get(
    '/readyz',
    {
      config: { scope: 'none', limits: [] },
      schema: {
        operationId: 'getReadiness',
        summary: 'Whether database, engine and drivers can work',
        tags: ['Service'],
        response: {
          200: Type.Object(
            {
              status: Type.Literal('ready'),
              checks: Type.Array(Type.String({ description: 'What was looked at.', examples: ['database'] })),
            },
            { description: 'They can.' },
          ),
        },
      },
    },
    async () => {
      const checks = await ready()
      const problems = checks.filter((check) => check.problem !== null)
      if (problems.length === 0) return { status: 'ready' as const, checks: checks.map((check) => check.name) }
      throw new ApiError('unavailable', problems.map(({ name, problem }) => `${name}: ${problem}`).join('; '), {
        headers: { 'retry-after': '2' },
        extensions: { reasons: problems },
      })
    },
  )

  let document: string | undefined
  app.get('/openapi.json', { config: { scope: 'none' }, schema: { hide: true } }, async (_request, reply) => {
    document ??= JSON.stringify(app.swagger())
    return reply.type('application/json; charset=utf-8').send(document)
  })
}
