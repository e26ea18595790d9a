import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendObject } from '../http/etag.ts'
import { listParameters, sendPage } from '../http/list.ts'
import { Id, ref } from '../http/schemas.ts'
import type { App, Resource } from '../http/types.ts'
import { changed, created, write } from '../writes/write.ts'
import { previewDeletion, requestDeletion } from './delete.ts'
import {
  deletionQuery,
  Project,
  ProjectCreate,
  ProjectCreated,
  ProjectDeletion,
  ProjectPage,
  ProjectUpdate,
} from './schema.ts'
import { createProject, getProject, listProjects, showProject, updateProject } from './store.ts'

const tags = ['Projects']
const params = Type.Object({ id: Id('proj', 'ID of the project.') })

export const projects: Resource = {
  tag: { name: 'Projects', description: 'Tenants, each with its own environments, keys and networks.' },
  schemas: [Project, ProjectCreated, ProjectPage, ProjectCreate, ProjectUpdate, ProjectDeletion],
  routes(app, deps) {
    app.get(
      '/v2/projects',
      {
        config: { scope: 'admin' },
        schema: {
          operationId: 'listProjects',
          summary: 'List projects',
          tags,
          querystring: Type.Object(listParameters, { additionalProperties: false }),
          response: { 200: ref(ProjectPage) },
        },
      },
      (request, reply) => {
        const sql = deps.sql.as(request.principal.environment_id)
        return sendPage(deps, request, reply, (window) => listProjects(sql, window), showProject)
      },
    )

    app.post(
      '/v2/projects',
      {
        config: { scope: 'admin', problems: ['capacity_exhausted'] },
        schema: {
          operationId: 'createProject',
          summary: 'Create a project',
          description:
            'Creates a project with two environments, and a default subnet and an API key in each. The keys have all scopes except `admin`.',
          tags,
          body: ref(ProjectCreate),
          response: { 201: ref(ProjectCreated) },
        },
      },
      (request, reply) =>
        write(deps, request, reply, async (tx) => {
          const { row, keys } = await createProject(tx, deps, request.principal, request.body)
          const shown = showProject(row)
          const body = { ...shown, live_key: keys.live, test_key: keys.test }
          const made = created(shown, `${deps.config.public_url}/v2/projects/${row.id}`)
          return { ...made, body, secrets: ['live_key', 'test_key'] }
        }),
    )

    app.get(
      '/v2/projects/:id',
      {
        config: { scope: 'admin' },
        schema: { operationId: 'getProject', summary: 'Get a project', tags, params, response: { 200: ref(Project) } },
      },
      async (request, reply) => {
        const sql = deps.sql.as(request.principal.environment_id)
        return sendObject(request, reply, showProject(await getProject(sql, request.params.id)))
      },
    )

    for (const method of ['PUT', 'PATCH'] as const) {
      app.route({
        method,
        url: '/v2/projects/:id',
        config: { scope: 'admin', problems: ['invalid_state', 'precondition_failed'] },
        schema: {
          operationId: method === 'PUT' ? 'updateProject' : 'patchProject',
          summary: method === 'PUT' ? 'Update a project' : 'Update a project (merge patch)',
          tags,
          params,
          body: ref(ProjectUpdate),
          response: { 200: ref(Project) },
        },
        handler: (request, reply) =>
          write(deps, request, reply, async (tx) => {
            const { params, body, headers } = request
            const { before, after } = await updateProject(tx, params.id, body, headers['if-match'])
            return changed(200, after.id, showProject(before), showProject(after))
          }),
      })
    }
    deleteRoute(app, deps)
  },
}

function deleteRoute(app: App, deps: Deps): void {
  app.delete(
    '/v2/projects/:id',
    {
      config: { scope: 'admin', problems: ['invalid_state', 'termination_protected', 'precondition_failed'] },
      schema: {
        operationId: 'deleteProject',
        summary: 'Delete a project',
        description:
          'Deletes a project with everything in both environments: machines, images, events, webhooks, logs and its audit log. `name` must repeat its name. Its keys are revoked immediately, and its instances are terminated; the project has the status `deleting` until nothing is left, and is not found afterwards. The first project cannot be deleted.',
        tags,
        params,
        querystring: deletionQuery,
        response: { 200: ref(ProjectDeletion), 202: ref(Project) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const { params, query, principal, headers } = request
        const { environment_id } = principal
        const deletion = { id: params.id, environment_id, request_id: request.id, if_match: headers['if-match'], query }
        if (query.dry_run) {
          const body = await previewDeletion(tx, deletion)
          return { status: 200, resource: params.id, before: null, after: null, body }
        }
        const { before, after, revoked } = await requestDeletion(tx, outbox, deps, deletion)
        const shown = showProject(after)
        return {
          ...changed(202, params.id, before === after ? shown : showProject(before), shown),
          committed: () => revoked.forEach((id) => void deps.keys.drop(id)),
        }
      }),
  )
}
