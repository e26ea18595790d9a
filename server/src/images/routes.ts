import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendObject } from '../http/etag.ts'
import { sendPage } from '../http/list.ts'
import { NoContent, ref } from '../http/schemas.ts'
import type { App, Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { created, removed, write } from '../writes/write.ts'
import { Image, ImageCreate, ImagePage, imageFilters } from './schema.ts'
import { showImage } from './show.ts'
import { createImage, deleteImage, listImages, readImage } from './store.ts'
import { uploadRoute } from './upload-route.ts'

const tags = ['Images']
const params = Type.Object({
  id: Type.String({
    pattern: '^[a-z0-9][a-z0-9._-]{0,62}$',
    description: 'ID or name of the image.',
    examples: ['ubuntu-22.04-lts'],
  }),
})

export const images: Resource = {
  tag: { name: 'Images', description: 'Disk images that instances boot from.' },
  schemas: [Image, ImagePage, ImageCreate],
  routes(app, deps) {
    readRoutes(app, deps)
    writeRoutes(app, deps)
    uploadRoute(app, deps)
  },
}

function readRoutes(app: App, deps: Deps): void {
  app.get(
    '/v2/images',
    {
      config: { scope: 'images:read' },
      schema: {
        operationId: 'listImages',
        summary: 'List images',
        description: "Lists the installation's images and the images that were added to this environment.",
        tags,
        querystring: Type.Object(imageFilters, { additionalProperties: false }),
        response: { 200: ref(ImagePage) },
      },
    },
    (request, reply) => {
      const { environment_id } = request.principal
      const { name } = request.query
      return sendPage(
        deps,
        request,
        reply,
        (window) => listImages(deps.sql.as(environment_id), environment_id, name, window),
        showImage,
      )
    },
  )

  app.get(
    '/v2/images/:id',
    {
      config: { scope: 'images:read' },
      schema: {
        operationId: 'getImage',
        summary: 'Get an image by ID or name',
        tags,
        params,
        response: { 200: ref(Image) },
      },
    },
    async (request, reply) => {
      const { environment_id } = request.principal
      const row = await readImage(deps.sql.as(environment_id), environment_id, request.params.id)
      if (!row) throw notFound('image', request.params.id)
      return sendObject(request, reply, showImage(row))
    },
  )
}

function writeRoutes(app: App, deps: Deps): void {
  app.post(
    '/v2/images',
    {
      config: { scope: 'images:write', problems: ['already_exists', 'capacity_exhausted'] },
      schema: {
        operationId: 'createImage',
        summary: 'Add an image',
        description:
          'Adds a bootable qcow2 or raw disk, from a URL or by upload. The response does not wait for the import; `status` and `progress` report on it.',
        tags,
        body: ref(ImageCreate),
        response: { 201: ref(Image) },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const row = await createImage(tx, outbox, deps, request.principal, request.body)
        return created(showImage(row), `${deps.config.public_url}/v2/images/${row.id}`)
      }),
  )

  app.delete(
    '/v2/images/:id',
    {
      config: { scope: 'images:write', problems: ['conflict', 'in_use', 'precondition_failed'] },
      schema: {
        operationId: 'deleteImage',
        summary: 'Delete an image',
        description: 'Deletes an image that was added. No existing instance may have been created from it.',
        tags,
        params,
        response: { 204: NoContent('The image is deleted.') },
      },
    },
    (request, reply) =>
      write(deps, request, reply, async (tx, outbox) => {
        const { principal, params, headers } = request
        return removed(showImage(await deleteImage(tx, outbox, principal, params.id, headers['if-match'])))
      }),
  )
}
