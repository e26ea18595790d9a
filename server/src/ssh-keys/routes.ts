import { Type } from 'typebox'
import { sendObject } from '../http/etag.ts'
import { listParameters, sendPage } from '../http/list.ts'
import { Id, NoContent, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { changed, created, removed, write } from '../writes/write.ts'
import { SshKey, SshKeyCreate, SshKeyPage, SshKeyUpdate } from './schema.ts'
import { createSshKey, deleteSshKey, getSshKey, listSshKeys, showSshKey, updateSshKey } from './store.ts'

const tags = ['SSH keys']
const params = Type.Object({ id: Id('ssh', 'ID of the SSH key.') })

export const sshKeys: Resource = {
  tag: { name: 'SSH keys', description: 'Public keys that can log in to new instances.' },
  schemas: [SshKey, SshKeyPage, SshKeyCreate, SshKeyUpdate],
  routes(app, deps) {
    app.get(
      '/v2/ssh_keys',
      {
        config: { scope: 'ssh_keys:read' },
        schema: {
          operationId: 'listSshKeys',
          summary: 'List SSH keys',
          tags,
          querystring: Type.Object(listParameters, { additionalProperties: false }),
          response: { 200: ref(SshKeyPage) },
        },
      },
      (request, reply) => {
        const { environment_id } = request.principal
        const sql = deps.sql.as(environment_id)
        return sendPage(deps, request, reply, (window) => listSshKeys(sql, environment_id, window), showSshKey)
      },
    )

    app.post(
      '/v2/ssh_keys',
      {
        config: { scope: 'ssh_keys:write', problems: ['already_exists'] },
        schema: {
          operationId: 'createSshKey',
          summary: 'Add an SSH key',
          tags,
          body: ref(SshKeyCreate),
          response: { 201: ref(SshKey) },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx) => {
          const row = await createSshKey(tx, deps, request.principal, request.body)
          return created(showSshKey(row), `${deps.config.public_url}/v2/ssh_keys/${row.id}`)
        }),
    )

    app.get(
      '/v2/ssh_keys/:id',
      {
        config: { scope: 'ssh_keys:read' },
        schema: { operationId: 'getSshKey', summary: 'Get an SSH key', tags, params, response: { 200: ref(SshKey) } },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const row = await getSshKey(deps.sql.as(environment_id), environment_id, request.params.id)
        return sendObject(request, reply, showSshKey(row))
      },
    )

    app.put(
      '/v2/ssh_keys/:id',
      {
        config: { scope: 'ssh_keys:write', problems: ['precondition_failed'] },
        schema: {
          operationId: 'updateSshKey',
          summary: 'Update an SSH key',
          tags,
          params,
          body: ref(SshKeyUpdate),
          response: { 200: ref(SshKey) },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx) => {
          const { principal, params, body, headers } = request
          const { before, after } = await updateSshKey(tx, principal, params.id, body, headers['if-match'])
          return changed(200, before.id, showSshKey(before), showSshKey(after))
        }),
    )

    app.delete(
      '/v2/ssh_keys/:id',
      {
        config: { scope: 'ssh_keys:write', problems: ['precondition_failed'] },
        schema: {
          operationId: 'deleteSshKey',
          summary: 'Delete an SSH key',
          description: 'Existing instances keep the key.',
          tags,
          params,
          response: { 204: NoContent('The SSH key is deleted.') },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx) => {
          const { principal, params, headers } = request
          return removed(showSshKey(await deleteSshKey(tx, principal, params.id, headers['if-match'])))
        }),
    )
  },
}
