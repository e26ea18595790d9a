import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import { ApiError, CATALOGUE, DatabaseUnavailableError, type ErrorCode } from '../lib/errors.ts'
import { InsufficientCapacity } from '../lib/insufficient-capacity.ts'
import type { Log } from '../lib/log.ts'
import { schemaError } from './validation.ts'

export const Problem = Type.Object(
  {
    type: Type.String({ description: 'URI of the problem type; one for each `code`.' }),
    title: Type.String({ description: 'Summary of the problem type.' }),
    status: Type.Integer({ description: 'HTTP status code.' }),
    detail: Type.String({ description: 'What happened, and what to do.' }),
    instance: Type.String({ description: 'URI of this occurrence.' }),
    code: Type.String({ description: 'Stable, machine-readable name of the problem type.' }),
    request_id: Type.String({ description: 'ID of the request. Quote it when you contact support.' }),
    errors: Type.Optional(
      Type.Array(
        Type.Object(
          {
            pointer: Type.Optional(
              Type.String({ description: 'JSON pointer (RFC 6901) to the field in the request body.' }),
            ),
            parameter: Type.Optional(Type.String({ description: 'Name of the query parameter or header.' })),
            code: Type.String(),
            message: Type.String({ description: 'What is wrong, and how to fix it.' }),
          },
          { additionalProperties: false },
        ),
        { description: 'All errors of the request.' },
      ),
    ),
  },
  {
    $id: 'Problem',
    description: 'An error response (RFC 9457). Some problem types have additional fields.',
    examples: [
      {
        type: 'urn:cloudnexus:problem:not_found',
        title: 'Not found',
        status: 404,
        detail: 'No instance with the ID "inst_3x9y2z1a0b" exists in this environment.',
        instance: 'urn:cloudnexus:request:req_3x9y2z1a0b5c7d8e4f6g',
        code: 'not_found',
        request_id: 'req_3x9y2z1a0b5c7d8e4f6g',
      },
    ],
  },
)

/** The body of an error response. */
function problemOf(error: ApiError, request: { id: string; req_id: string }): string {
  return JSON.stringify({
    type: `urn:cloudnexus:problem:${error.code}`,
    title: CATALOGUE[error.code][1],
    status: error.status,
    detail: error.detail,
    instance: `urn:cloudnexus:request:${request.req_id}`,
    code: error.code,
    request_id: request.id,
    ...(error.errors && { errors: error.errors }),
    ...error.extensions,
  })
}

/** Sends an error response. Internal details are only logged. */
export function sendProblem(log: Log) {
  return (thrown: FastifyError | ApiError, request: FastifyRequest, reply: FastifyReply) => {
    const error = toApiError(thrown)
    request.problem_code = error.code
    if (error.status >= 500) {
      const { request_id, req_id } = { request_id: request.id, req_id: request.req_id }
      log.error({ request_id, req_id, code: error.code, error: describe(thrown) }, 'request failed')
    }
    return reply
      .code(error.status)
      .headers(error.headers)
      .type('application/problem+json')
      .send(problemOf(error, request))
  }
}

/** Maps any error to the error that the client receives. */
export function toApiError(thrown: unknown): ApiError {
  if (thrown instanceof ApiError) return thrown
  if (thrown instanceof InsufficientCapacity) {
    return new ApiError('capacity_exhausted', thrown.message, { extensions: thrown.extensions, cause: thrown })
  }
  const error = thrown as Partial<FastifyError> & { syscall?: string }
  if (error.validation) return schemaError(error.validation as never, error.validationContext as never)
  if (isDatabaseUnavailable(error)) {
    const detail = 'The database is unavailable. Retry the request.'
    return new ApiError('unavailable', detail, { headers: { 'retry-after': '2' }, cause: thrown })
  }
  if (isFullDisk(error)) return fullDisk(thrown)
  const lacking = EXHAUSTED[error.code ?? '']
  if (lacking) {
    const detail = `${lacking} Free some on the host, then retry.`
    return new ApiError('unavailable', detail, { headers: { 'retry-after': '30' }, cause: thrown })
  }
  const known = FASTIFY_ERRORS[error.code ?? '']
  if (known) return new ApiError(known[0], known[1], { cause: thrown })
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return new ApiError('bad_request', 'The request is malformed. Check that it is complete.', { cause: thrown })
  }
  const detail = 'The cause is in the server log under this request ID. Retry the request, or report the ID.'
  return new ApiError('internal_error', detail, { cause: thrown })
}

export const BAD_ESCAPE = 'The URL is invalid: each percent sign must begin a percent-encoded UTF-8 character.'

const FASTIFY_ERRORS: Record<string, [ErrorCode, string]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['payload_too_large', 'The request body exceeds the size limit of this URL.'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [
    'unsupported_media_type',
    'Send the body as JSON, with the header Content-Type: application/json.',
  ],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['bad_request', 'The length of the request body does not match Content-Length.'],
  FST_ERR_MAX_PARAM_LENGTH: ['not_found', 'No resource exists at this URL.'],
  FST_ERR_BAD_URL: ['bad_request', BAD_ESCAPE],
}

/** The disk of the host, or that of the database, is full. */
function isFullDisk({ code }: { code?: string }): boolean {
  return code === 'ENOSPC' || code === 'EDQUOT' || code === '53100'
}

function fullDisk(cause: unknown): ApiError {
  const detail = 'The disk of the host is full. Free some space on the host, then retry.'
  return new ApiError('insufficient_storage', detail, { headers: { 'retry-after': '30' }, cause })
}

/** Errors of the system and SQLSTATEs of PostgreSQL: the host lacks something, and the request is not at fault. */
const EXHAUSTED: Record<string, string> = {
  EMFILE: 'The service has too few file descriptors.',
  ENFILE: 'The host has too few file descriptors.',
  ENOMEM: 'The host has too little memory.',
  '53200': 'The database has too little memory.',
}

/** The database is unavailable, or reports a conflict that a retry resolves. */
function isDatabaseUnavailable(error: { code?: string }): boolean {
  return error instanceof DatabaseUnavailableError || /^(40001|40P01|55P03|25006)$/.test(error.code ?? '')
}

function describe(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)
}

/** Sends the error response for input that is no request: headers too large, not HTTP, or too slow. */
export function sendClientError(newRequestId: () => string) {
  return (error: Error & { code?: string }, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
    const id = newRequestId()
    writeProblem(socket, clientError(error.code), { id, req_id: id })
  }
}

/** Writes an error response to a raw socket and closes it. */
export function writeProblem(socket: Duplex, error: ApiError, request: { id: string; req_id: string }): void {
  const body = problemOf(error, request)
  const headers = Object.entries({
    'Content-Type': 'application/problem+json',
    'X-Request-ID': request.id,
    'Content-Length': Buffer.byteLength(body),
    ...error.headers,
    Connection: 'close',
  })
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`)
  socket.end(`HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\n${lines.join('')}\r\n${body}`)
}

function clientError(code: string | undefined): ApiError {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return new ApiError('headers_too_large', 'The request URL and headers together exceed 16 KiB.')
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new ApiError('request_timeout', 'The request did not arrive in time. Send it faster.')
  }
  return new ApiError('bad_request', 'This is not a valid HTTP/1.1 request.')
}
