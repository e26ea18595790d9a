import { Type } from 'typebox'
import { ApiError } from '../lib/errors.ts'
import type { App } from './types.ts'

/** A component that must work before requests are served; `problem` is null when it does. */
export type Readiness = { name: string; problem: string | null }

/** Health and readiness checks and the OpenAPI document; no key needed. */
export function serviceRoutes(app: App, ready: () => Promise<Readiness[]>): void {
  app.get(
    '/healthz',
    {
      config: { scope: 'none', limits: [] },
      schema: {
        operationId: 'getHealth',
        summary: 'Check liveness',
        tags: ['Service'],
        response: { 200: Type.Object({ status: Type.Literal('ok') }, { description: 'The process is alive.' }) },
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
        summary: 'Check readiness of database, disk, engine and drivers',
        tags: ['Service'],
        response: {
          200: Type.Object(
            {
              status: Type.Literal('ready'),
              checks: Type.Array(Type.String({ description: 'Component that was checked.', examples: ['database'] })),
            },
            { description: 'All components are ready.' },
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
