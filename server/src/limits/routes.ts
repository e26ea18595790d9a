import { readUse } from '../events/outbox.ts'
import { sendObject } from '../http/etag.ts'
import { ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'
import { Limits } from './schema.ts'

export const limits: Resource = {
  tag: { name: 'Limits', description: 'Quotas and rate limits of a project.' },
  schemas: [Limits],
  routes(app, deps) {
    app.get(
      '/v2/limits',
      {
        config: { scope: 'any' },
        schema: {
          operationId: 'getLimits',
          summary: 'Get limits and usage',
          tags: ['Limits'],
          response: { 200: ref(Limits) },
        },
      },
      async (request, reply) => {
        const { principal } = request
        const { used, quotas } = await readUse(deps.sql.as(principal.environment_id), deps, principal)
        const shown = QUOTA_NAMES.map((name) => {
          const limit = quotas[name]
          return { name, limit, used: used[name], remaining: limit === null ? null : Math.max(0, limit - used[name]) }
        })
        return sendObject(request, reply, { quotas: shown, rate_limits: await request.rate_limits.list() })
      },
    )
  },
}
