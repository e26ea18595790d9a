import { Type } from 'typebox'
import type { Deps } from '../deps.ts'
import { withOutbox } from '../events/outbox.ts'
import { rawBody } from '../http/body.ts'
import { Id, ref } from '../http/schemas.ts'
import type { App } from '../http/types.ts'
import type { Principal } from '../keys/principal.ts'
import { notFound } from '../lib/errors.ts'
import { changed, write } from '../writes/write.ts'
import { reserveBytes } from './reserve.ts'
import { Image } from './schema.ts'
import { showImage } from './show.ts'
import { checkAwaitsContent, lockImage, readImage, receiveContent } from './store.ts'
import { discardUpload, receiveUpload, type Upload } from './upload.ts'

const UPLOAD_DEADLINE_MS = 6 * 3600 * 1000
const NO_FILE: Upload = { put: () => {}, discard: () => {} }

/** The content of an image that was added with `source` "upload". */
export function uploadRoute(app: App, deps: Deps): void {
  app.put(
    '/v2/images/:id/content',
    {
      config: {
        scope: 'images:write',
        raw_body: true,
        body_deadline_ms: UPLOAD_DEADLINE_MS,
        problems: ['conflict', 'capacity_exhausted'],
      },
      schema: {
        operationId: 'uploadImage',
        summary: 'Upload the content of an image',
        description:
          'Uploads the content of an image that was added with `source` "upload". The import starts when the upload is complete. The bytes are reserved on the host before they are written; without a `Content-Length`, part by part.',
        tags: ['Images'],
        params: Type.Object({ id: Id('img', 'ID of the image.') }),
        response: { 202: ref(Image) },
      },
    },
    async (request, reply) => {
      const { principal, params, req_id, headers } = request
      const sql = deps.sql.as(principal.environment_id)
      const row = await readImage(sql, principal.environment_id, params.id)
      if (!row) throw notFound('image', params.id)
      checkAwaitsContent(row)
      const body = rawBody(request)
      const store = (put: Upload['put'], reserved: number) =>
        write(deps, request, reply, async (tx, outbox) => {
          const { before, after } = await receiveContent(tx, outbox, deps, principal, row.id, put, reserved)
          return changed(202, row.id, showImage(before), showImage(after))
        })
      if (principal.mode === 'test') {
        await discardUpload(deps.config, body)
        return store(NO_FILE.put, 0)
      }
      const reservation = reservationOf(deps, principal, row.id)
      const length = headers['content-length'] === undefined ? null : Number(headers['content-length'])
      const incoming = { image_id: row.id, request_id: req_id, body, length, reserve: reservation.add }
      let upload = NO_FILE
      try {
        upload = await receiveUpload(deps.config, incoming)
        const response = await store(upload.put, reservation.bytes())
        reservation.keep()
        return response
      } finally {
        upload.discard()
        await reservation.release()
      }
    },
  )
}

/** What one upload has reserved. Several uploads of an image may be in progress; the first that is complete is imported. */
function reservationOf(deps: Deps, owner: Principal, id: string) {
  let reserved = 0
  const change = (more: number) =>
    withOutbox(deps, owner, async (tx, outbox) => {
      const row = await lockImage(tx, id)
      // The deletion of an image releases all of its bytes.
      if ((!row || row.wanted_gone) && more < 0) return
      if (!row || row.wanted_gone) throw notFound('image', id)
      await reserveBytes(tx, outbox, deps, row, Math.max(0, row.reserved_bytes + more))
    })
  return {
    bytes: () => reserved,
    async add(more: number) {
      await change(more)
      reserved += more
    },
    /** The import needs the bytes of this upload. */
    keep() {
      reserved = 0
    },
    /** A failure leaves the reservation until the next start. */
    async release() {
      if (reserved === 0) return
      await change(-reserved).catch((error) =>
        deps.log.warn({ image: id, error: String(error) }, 'bytes stay reserved'),
      )
    },
  }
}
