import { Readable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { ApiError } from '../lib/errors.ts'
import type { App } from './types.ts'

/** Bytes that a JSON body may have. */
export const BODY_LIMIT_BYTES = 2 ** 20
const MAX_DEPTH = 32

/** JSON in UTF-8 and nothing else; an empty body is no body, whatever its Content-Type says. */
export function acceptJson(app: App): void {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>(
    ['application/json', 'application/merge-patch+json'],
    { parseAs: 'buffer' },
    (request, body, done) => {
      if (body.length === 0) return done(null, undefined)
      let text: string
      try {
        text = decoder.decode(body)
      } catch {
        return done(malformed('The body is not valid UTF-8.'))
      }
      parse(request, text, (error, value) => {
        if (error) return done(malformed(`The body is not valid JSON${position(text)}.`))
        if (isDeeper(value, MAX_DEPTH)) return done(malformed(`The body is nested more than ${MAX_DEPTH} levels deep.`))
        done(null, value)
      })
    },
  )
  app.addContentTypeParser('*', (request, payload, done) => {
    const { raw_body } = request.routeOptions.config
    if (raw_body && request.headers['content-type'] === 'application/octet-stream') return done(null, payload)
    done(raw_body ? requireBinaryBody() : new ApiError('unsupported_media_type', JSON_WANTED))
  })
}

/** Forgets the type of a body that is not there, before anybody refuses the request for it. */
export function dropContentTypeOfEmptyBody(request: FastifyRequest): void {
  if (request.method === 'GET' || request.method === 'HEAD') return // nobody looks at theirs
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers
  if (encoding !== undefined || length !== '0' || request.routeOptions.config.raw_body) return
  delete request.headers['content-type']
}

/** The body of a route with `raw_body`, to be read by its handler. */
export function rawBody(request: FastifyRequest): Readable {
  if (request.body instanceof Readable) return request.body
  throw requireBinaryBody()
}

const JSON_WANTED = 'Send the body as JSON, with the header Content-Type: application/json.'

function requireBinaryBody(): ApiError {
  return new ApiError(
    'unsupported_media_type',
    'Send the bytes with the header Content-Type: application/octet-stream.',
  )
}

function malformed(detail: string): ApiError {
  return new ApiError('malformed_json', detail)
}

/** Where the parser stopped, without the text around it. */
function position(text: string): string {
  try {
    JSON.parse(text)
    return ': the names __proto__ and constructor are not allowed in it'
  } catch (error) {
    const found = /at position \d+( \(line \d+ column \d+\))?/.exec(String(error))
    return found ? ` (${found[0]})` : ''
  }
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((child) => isDeeper(child, levels - 1))
}
