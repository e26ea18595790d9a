import { Readable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { ApiError } from '../lib/errors.ts'
import type { App } from './types.ts'

/** Maximum size of a JSON body. */
export const BODY_LIMIT_BYTES = 2 ** 20
const MAX_DEPTH = 32

/** Accepts only JSON in UTF-8. An empty body counts as no body, whatever its Content-Type. */
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
        return done(malformed('The request body is not valid UTF-8.'))
      }
      parse(request, text, (error, value) => {
        if (error) return done(malformed(`The request body is not valid JSON${position(text)}.`))
        if (isDeeper(value, MAX_DEPTH))
          return done(malformed(`The request body is nested more than ${MAX_DEPTH} levels deep.`))
        done(null, value)
      })
    },
  )
  app.addContentTypeParser('*', (request, payload, done) => {
    const { raw_body } = request.routeOptions.config
    if (raw_body && request.headers['content-type'] === 'application/octet-stream') return done(null, payload)
    done(raw_body ? requireBinaryBody() : new ApiError('unsupported_media_type', JSON_REQUIRED))
  })
}

/** Removes the Content-Type of an empty body, so that it does not cause an `unsupported_media_type` error. */
export function dropContentTypeOfEmptyBody(request: FastifyRequest): void {
  if (request.method === 'GET' || request.method === 'HEAD') return // their bodies are never parsed
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers
  if (encoding !== undefined || length !== '0' || request.routeOptions.config.raw_body) return
  delete request.headers['content-type']
}

/** The request body as a stream, for the handler of a route with `raw_body`. */
export function rawBody(request: FastifyRequest): Readable {
  if (request.body instanceof Readable) return request.body
  throw requireBinaryBody()
}

const JSON_REQUIRED = 'Send the body as JSON, with the header Content-Type: application/json.'

function requireBinaryBody(): ApiError {
  return new ApiError('unsupported_media_type', 'Send the data with the header Content-Type: application/octet-stream.')
}

function malformed(detail: string): ApiError {
  return new ApiError('malformed_json', detail)
}

/** Where the parser stopped, without quoting the body. */
function position(text: string): string {
  try {
    JSON.parse(text)
    return ': it must not contain the keys __proto__ and constructor'
  } catch (error) {
    const found = /at position \d+( \(line \d+ column \d+\))?/.exec(String(error))
    return found ? ` (${found[0]})` : ''
  }
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((child) => isDeeper(child, levels - 1))
}
