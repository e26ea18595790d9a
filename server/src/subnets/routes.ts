import { Type } from 'typebox'
import { sendObject } from '../http/etag.ts'
import { commaList, sendPage } from '../http/list.ts'
import { Id, NoContent, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { created, removed, write } from '../writes/write.ts'
import { Subnet, SubnetCreate, SubnetPage, subnetFilters } from './schema.ts'
import { createSubnet, deleteSubnet, findSubnet, listSubnets, showSubnet } from './store.ts'

const tags = ['Subnets']
const params = Type.Object({ id: Id('sub', 'ID of the subnet.') })

export const subnets: Resource = {
  tag: { name: 'Subnets', description: 'Private networks.' },
  schemas: [Subnet, SubnetPage, SubnetCreate],
  routes(app, deps) {
    app.get(
      '/v2/subnets',
      {
        config: { scope: 'network:read' },
        schema: {
          operationId: 'listSubnets',
          summary: 'List subnets',
          tags,
          querystring: Type.Object(subnetFilters, { additionalProperties: false }),
          response: { 200: ref(SubnetPage) },
        },
      },
      (request, reply) => {
        const { environment_id } = request.principal
        const regions = commaList(request.query.region)
        return sendPage(
          deps,
          request,
          reply,
          (window) => listSubnets(deps.sql.as(environment_id), environment_id, regions, window),
          showSubnet,
        )
      },
    )

    app.post(
      '/v2/subnets',
      {
        config: { scope: 'network:write', problems: ['conflict', 'capacity_exhausted'] },
        schema: {
          operationId: 'createSubnet',
          summary: 'Create a subnet',
          tags,
          body: ref(SubnetCreate),
          response: { 201: ref(Subnet) },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx, outbox) => {
          const row = await createSubnet(tx, outbox, deps, request.principal, request.body)
          return created(showSubnet(row), `${deps.config.public_url}/v2/subnets/${row.id}`)
        }),
    )

    app.get(
      '/v2/subnets/:id',
      {
        config: { scope: 'network:read' },
        schema: { operationId: 'getSubnet', summary: 'Get a subnet', tags, params, response: { 200: ref(Subnet) } },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const row = await findSubnet(deps.sql.as(environment_id), environment_id, request.params.id)
        if (!row) throw notFound('subnet', request.params.id)
        return sendObject(request, reply, showSubnet(row))
      },
    )

    app.delete(
      '/v2/subnets/:id',
      {
        config: { scope: 'network:write', problems: ['conflict', 'in_use', 'precondition_failed'] },
        schema: {
          operationId: 'deleteSubnet',
          summary: 'Delete a subnet',
          description: 'A subnet must not contain instances. A default subnet cannot be deleted.',
          tags,
          params,
          response: { 204: NoContent('The subnet is deleted.') },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx) => {
          const { principal, params, headers } = request
          return removed(showSubnet(await deleteSubnet(tx, principal, params.id, headers['if-match'])))
        }),
    )
  },
}
