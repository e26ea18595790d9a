import { Readable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { ApiError, validationFailed } from '../lib/errors.ts'
import type { App } from './types.ts'

/** Maximum size of a JSON body. */
export const BODY_LIMIT_BYTES = 2 ** 20
const MAX_DEPTH = 32
/** Entries of all lists and objects together. More take the parser longer than all else, and no request needs them. */
const MAX_ENTRIES = 20_000

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
      const { depth, entries } = sizeOf(text)
      if (depth > MAX_DEPTH) return done(malformed(`The request body is nested more than ${MAX_DEPTH} levels deep.`))
      if (entries > MAX_ENTRIES) return done(tooManyEntries())
      parse(request, text, (error, value) => {
        if (error) return done(malformed(`The request body is not valid JSON${position(text)}.`))
        done(null, value)
      })
    },
  )
  app.addContentTypeParser('*', (request, payload, done) => {
    const { raw_body } = request.routeOptions.config
    if (raw_body && mediaTypeOf(request) === 'application/octet-stream') return done(null, payload)
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

/** Media types are case-insensitive and may have parameters (RFC 9110, 8.3.1). */
function mediaTypeOf({ headers }: FastifyRequest): string {
  return (headers['content-type'] ?? '').split(';', 1)[0]!.trim().toLowerCase()
}

/** Throws 415 for a body with a content encoding: it would be read or stored as if it had none. */
export function refuseContentEncoding({ method, headers }: FastifyRequest): void {
  const encoding = headers['content-encoding']?.trim().toLowerCase() ?? ''
  if (method === 'GET' || method === 'HEAD' || encoding === '' || encoding === 'identity') return
  const detail = 'A Content-Encoding is not supported. Send the body without compression and without this header.'
  throw new ApiError('unsupported_media_type', detail, { headers: { 'accept-encoding': 'identity' } })
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

function tooManyEntries(): ApiError {
  const message = `The request body must have at most ${MAX_ENTRIES} entries in all of its lists and objects`
  return validationFailed([{ pointer: '', code: 'too_many', message }])
}

const [QUOTE, BACKSLASH, COMMA] = [...'"\\,'].map((character) => character.charCodeAt(0))
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [...'[]{}'].map((character) => character.charCodeAt(0))

/** The nesting of a JSON text and its entries, of which an empty list or object has one. Of other text, any numbers. */
export function sizeOf(text: string): { depth: number; entries: number } {
  const size = { depth: 0, entries: 0 }
  let level = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === QUOTE) i = endOfString(text, i)
    else if (code === COMMA) size.entries++
    else if (code === OPEN_LIST || code === OPEN_OBJECT) {
      size.entries++
      size.depth = Math.max(size.depth, ++level)
    } else if (code === CLOSE_LIST || code === CLOSE_OBJECT) level--
  }
  return size
}

/** The index of the quote that ends the string which begins at `start`, or the length of the text. */
function endOfString(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === QUOTE) return i
    if (code === BACKSLASH) i++
  }
  return text.length
}
