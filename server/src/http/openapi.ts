/** The OpenAPI document: the schemas of the routes, and the errors that follow from each route's declaration. */
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { FastifySchema, RouteOptions } from 'fastify'
import { CATALOGUE, type ErrorCode } from '../lib/errors.ts'
import { RATE_LIMIT_HEADERS, RETRY_AFTER } from '../rate-limits/headers.ts'
import { type CodesByStatus, finishDocument, type OpenapiDocument } from './openapi-document.ts'
import { Problem } from './problem.ts'
import { ref } from './schemas.ts'
import type { ApiTag } from './types.ts'

type Route = RouteOptions & { schema?: FastifySchema & Record<string, unknown> }

/** @param tags the tags of the resources, in the order of the document */
export function openapiOptions(version: string, publicUrl: string, tags: ApiTag[]): FastifyDynamicSwaggerOptions {
  const codesOf = new Map<string, CodesByStatus>()
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'CloudNexus API',
        version,
        description:
          'Virtual machines, and the networks, images and keys that they need, on your own hosts. Authenticate with `Authorization: Bearer cn_…`. Every response has the header `X-Request-ID`. Every error response is a problem (RFC 9457) with a stable `code`.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: publicUrl, description: 'This installation' }],
      tags: [...tags, SERVICE],
      components: {
        securitySchemes: {
          api_key: { type: 'http', scheme: 'bearer', description: 'A key beginning with cn_live_sk_ or cn_test_sk_.' },
        },
      },
    },
    stripBasePath: false,
    convertConstToEnum: false,
    refResolver: { buildLocalReference: (json, _base, _fragment, i) => (json.$id as string | undefined) ?? `def-${i}` },
    transform: ({ schema, url, route }) => ({
      schema: describe(route as Route, schema as Route['schema'], codesOf),
      url,
    }),
    transformObject: (made) => {
      const document = ('openapiObject' in made ? made.openapiObject : made) as unknown as OpenapiDocument
      finishDocument(document, codesOf)
      return document as never
    },
  }
}

const SERVICE: ApiTag = { name: 'Service', description: 'Health checks.' }

/** Adds security and error responses to a route's schema. */
function describe(route: Route, schema: Route['schema'], codesOf: Map<string, CodesByStatus>): FastifySchema {
  if (schema === undefined || schema.hide) return { hide: true } as FastifySchema
  const { scope } = route.config ?? {}
  const security = scope === 'none' ? [] : [{ api_key: scope === 'any' ? [] : [scope as string] }]
  const byStatus: CodesByStatus = new Map()
  codesOf.set(schema.operationId as string, byStatus)
  for (const code of problemsOf(route)) {
    const status = CATALOGUE[code][0]
    byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  const response: Record<string, unknown> = { ...(schema.response as object) }
  for (const [status, codes] of byStatus) {
    const description = codes.map((code) => `\`${code}\`: ${CATALOGUE[code][1]}.`).join(' ')
    const content = { 'application/problem+json': { schema: ref(Problem) } }
    const headers = status === 429 ? { headers: { ...RATE_LIMIT_HEADERS, 'Retry-After': RETRY_AFTER } } : {}
    response[status] = { description, ...headers, content }
  }
  const body = route.config?.raw_body ? { body: RAW_BODY } : {}
  return { ...schema, ...body, security, response } as FastifySchema
}

const RAW_BODY = { content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } } }

/** The error codes of a route: those that follow from its declaration, and those that it lists itself. */
function problemsOf(route: Route): Set<ErrorCode> {
  const { scope, raw_body, limits, problems = [] } = route.config ?? {}
  const codes: ErrorCode[] = ['invalid_parameter', 'bad_request', 'uri_too_long', 'headers_too_large']
  if (scope !== 'none' || limits?.length !== 0) codes.push('rate_limited')
  if (scope !== 'none') codes.push('invalid_api_key', 'address_not_allowed')
  if (scope !== 'none' && scope !== 'any') codes.push('insufficient_scope')
  const { properties = {} } = (route.schema?.querystring ?? {}) as { properties?: object }
  if ('cursor' in properties) codes.push('invalid_cursor')
  if (route.schema?.params) codes.push('not_found')
  if (route.schema?.body) codes.push('malformed_json', 'validation_failed')
  if (route.schema?.body || raw_body) codes.push('request_timeout', 'payload_too_large', 'unsupported_media_type')
  if (route.method === 'POST') codes.push('idempotency_in_flight', 'idempotency_key_reused')
  return new Set([...codes, ...problems, 'internal_error', 'unavailable', 'insufficient_storage'])
}

/** The missing parts of a route's declaration; empty when it is complete. */
export function routeFaults(route: Route): string[] {
  const schema = route.schema ?? {}
  const faults: string[] = []
  if (route.config?.scope === undefined) faults.push('config.scope')
  if (schema.hide) return faults
  for (const field of ['operationId', 'summary', 'tags']) if (!schema[field]) faults.push(`schema.${field}`)
  if (!Object.keys((schema.response as object) ?? {}).some((status) => status.startsWith('2'))) {
    faults.push('schema.response')
  }
  return faults
}
