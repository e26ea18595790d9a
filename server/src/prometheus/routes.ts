import { Type } from 'typebox'
import type { Resource } from '../http/types.ts'
import { MEDIA_TYPE } from '../lib/metrics.ts'

export const prometheus: Resource = {
  schemas: [],
  routes(app, deps) {
    app.get(
      '/metrics',
      {
        config: { scope: 'admin' },
        schema: {
          operationId: 'getMetrics',
          summary: 'Get Prometheus metrics',
          description:
            'Returns metrics of the whole installation. The setting `metrics_listen` opens a separate listener that requires no key.',
          tags: ['Service'],
          response: { 200: { description: 'The metrics.', content: { 'text/plain': { schema: Type.String() } } } },
        },
      },
      async (_request, reply) => {
        const text = await deps.metrics.render()
        return reply.type(MEDIA_TYPE).send(text as never)
      },
    )
  },
}
