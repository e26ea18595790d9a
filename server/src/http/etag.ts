import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ApiError } from '../lib/errors.ts'

/** A strong validator: the object's `version` where it has one, else a digest of what is shown. */
export function etagOf(object: object): string {
  if ('version' in object) return `"${object.version}"`
  return `"${createHash('sha256').update(JSON.stringify(object)).digest('base64url').slice(0, 22)}"`
}

/** Answers one object with its ETag, or 304 when the client has it already. */
export function sendObject<T extends object>(request: FastifyRequest, reply: FastifyReply, object: T): T {
  const etag = etagOf(object)
  reply.header('etag', etag)
  return matchesIfNoneMatch(request, etag) ? (reply.code(304).send() as unknown as T) : object
}

/** The same for an object that is a text already. */
export function sendCachedText(
  request: FastifyRequest,
  reply: FastifyReply,
  { etag, text }: { etag: string; text: string },
): never {
  reply.header('etag', etag)
  if (matchesIfNoneMatch(request, etag)) return reply.code(304).send() as never
  return sendText(reply, text)
}

/** Sends JSON that is a text already. */
export function sendText(reply: FastifyReply, text: string): never {
  return reply.type('application/json; charset=utf-8').serializer(unserialized).send(text) as never
}
const unserialized = (text: unknown) => text as string

function matchesIfNoneMatch(request: FastifyRequest, etag: string): boolean {
  const known = request.headers['if-none-match']
  if (known === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return false
  return listsTag(known.replaceAll('W/', ''), etag)
}

/** Refuses a write whose `If-Match` is not the object as it is now (412). Call it on the locked row. */
export function checkIfMatch(ifMatch: string | undefined, object: object): void {
  if (ifMatch === undefined || listsTag(ifMatch, etagOf(object))) return
  throw new ApiError(
    'precondition_failed',
    'The resource is not as your If-Match says. Get it again, apply your change to what it is now, and send the new ETag.',
  )
}

function listsTag(header: string, etag: string): boolean {
  return header.split(',').some((entry) => {
    const tag = entry.trim()
    return tag === '*' || tag === etag
  })
}
