import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ApiError } from '../lib/errors.ts'

/** A strong validator: the object's `version` if it has one, else a digest of its JSON. */
export function etagOf(object: object): string {
  if ('version' in object) return `"${object.version}"`
  return `"${createHash('sha256').update(JSON.stringify(object)).digest('base64url').slice(0, 22)}"`
}

/** Sends an object with its ETag, or 304 when `If-None-Match` lists that ETag. */
export function sendObject<T extends object>(request: FastifyRequest, reply: FastifyReply, object: T): T {
  const etag = etagOf(object)
  reply.header('etag', etag)
  return matchesIfNoneMatch(request, etag) ? (reply.code(304).send() as unknown as T) : object
}

/** The same for an object that is serialised already. */
export function sendCachedText(
  request: FastifyRequest,
  reply: FastifyReply,
  { etag, text }: { etag: string; text: string },
): never {
  reply.header('etag', etag)
  if (matchesIfNoneMatch(request, etag)) return reply.code(304).send() as never
  return sendText(reply, text)
}

/** Sends JSON text as it is. */
export function sendText(reply: FastifyReply, text: string): never {
  return reply.type('application/json; charset=utf-8').serializer(unserialized).send(text) as never
}
const unserialized = (text: unknown) => text as string

function matchesIfNoneMatch(request: FastifyRequest, etag: string): boolean {
  const known = request.headers['if-none-match']
  if (known === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return false
  return listsTag(known, etag)
}

/**
 * Throws 412 when `If-Match` does not list the object's current ETag. Call it on the locked row. The weak form counts too:
 * proxies that compress a response make a strong ETag weak, and the version that it names is the same.
 */
export function checkIfMatch(ifMatch: string | undefined, object: object): void {
  if (ifMatch === undefined || listsTag(ifMatch, etagOf(object))) return
  throw new ApiError(
    'precondition_failed',
    'The resource has changed since you read it (If-Match failed). Fetch it, reapply your change and retry with the new ETag.',
  )
}

function listsTag(header: string, etag: string): boolean {
  return header.split(',').some((entry) => {
    const tag = entry.trim().replace(/^W\//, '')
    return tag === '*' || tag === etag
  })
}
