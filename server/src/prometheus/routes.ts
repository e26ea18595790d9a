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
          summary: 'Counters for Prometheus',
          description:
            'About the installation as a whole, so it needs a key with the scope `admin`; `metrics_listen` opens a listener of its own without a key.',
          tags: ['Service'],
          response: { 200: { description: 'The counters.', content: { 'text/plain': { schema: Type.String() } } } },
        },
      },
      async (_request, reply) => {
        const text = await deps.metrics.render()
        return reply.type(MEDIA_TYPE).send(text as never)
      },
    )
  },
}
