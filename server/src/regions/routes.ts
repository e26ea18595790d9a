import { Type } from 'typebox'
import { fixedListParameters, sendFixedPage } from '../http/list.ts'
import { ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { Region, RegionPage } from './schema.ts'
import { showRegion } from './store.ts'

export const regions: Resource = {
  tag: { name: 'Regions', description: 'Where instances run, and the capacity there.' },
  schemas: [Region, RegionPage],
  routes(app, deps) {
    app.get(
      '/v2/regions',
      {
        config: { scope: 'any' },
        schema: {
          operationId: 'listRegions',
          summary: 'List regions',
          tags: ['Regions'],
          querystring: Type.Object(fixedListParameters, { additionalProperties: false }),
          response: { 200: ref(RegionPage) },
        },
      },
      async (request, reply) => {
        const sql = deps.sql.as(request.principal.environment_id)
        const shown = deps.regions.map((region) => showRegion(sql, deps.config, region, request.principal))
        return sendFixedPage(deps, request, reply, await Promise.all(shown))
      },
    )
  },
}
