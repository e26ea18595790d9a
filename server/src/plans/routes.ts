import { Type } from 'typebox'
import { sendObject } from '../http/etag.ts'
import { fixedListParameters, sendFixedPage } from '../http/list.ts'
import { ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import type { Principal } from '../keys/principal.ts'
import { notFound } from '../lib/errors.ts'
import { Plan, PlanPage } from './schema.ts'
import { showPlan } from './show.ts'

const tags = ['Plans']
const params = Type.Object({ id: Type.String({ description: 'ID of the plan.', examples: ['standard-4x'] }) })

export const plans: Resource = {
  tag: { name: 'Plans', description: 'Sizes of instances: CPUs, memory and disk.' },
  schemas: [Plan, PlanPage],
  routes(app, deps) {
    const capacities = (mode: Principal['mode']) =>
      deps.regions.map(({ id, drivers }) => ({ id, capacity: drivers[mode].capacity() }))

    app.get(
      '/v2/plans',
      {
        config: { scope: 'any' },
        schema: {
          operationId: 'listPlans',
          summary: 'List plans',
          tags,
          querystring: Type.Object(fixedListParameters, { additionalProperties: false }),
          response: { 200: ref(PlanPage) },
        },
      },
      async (request, reply) => {
        const regions = capacities(request.principal.mode)
        const shown = deps.config.plans.map((plan) => showPlan(plan, regions))
        return sendFixedPage(deps, request, reply, shown)
      },
    )

    app.get(
      '/v2/plans/:id',
      {
        config: { scope: 'any' },
        schema: { operationId: 'getPlan', summary: 'Get a plan', tags, params, response: { 200: ref(Plan) } },
      },
      async (request, reply) => {
        const plan = deps.config.plans.find(({ id }) => id === request.params.id)
        if (!plan) throw notFound('plan', request.params.id)
        return sendObject(request, reply, showPlan(plan, capacities(request.principal.mode)))
      },
    )
  },
}
