/** The OpenAPI document: what the routes say, and for each the errors that follow from what it is. */
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { FastifySchema, RouteOptions } from 'fastify'
import { CATALOGUE, type ErrorCode } from '../lib/errors.ts'
import { RATE_LIMIT_HEADERS, RETRY_AFTER } from '../rate-limits/headers.ts'
import { type CodesByStatus, finishDocument, type OpenapiDocument } from './openapi-document.ts'
import { Problem } from './problem.ts'
import { ref } from './schemas.ts'

type Route = RouteOptions & { schema?: FastifySchema & Record<string, unknown> }

export function openapiOptions(version: string, publicUrl: string): FastifyDynamicSwaggerOptions {
  const codesOf = new Map<string, CodesByStatus>()
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'CloudNexus API',
        version,
        description:
          'Virtual machines, and what they need, on your own hosts. Authenticate with `Authorization: Bearer cn_…`. Every answer carries `X-Request-ID`; every answer that is not a success is a problem (RFC 9457) whose `code` is stable.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: publicUrl, description: 'This installation' }],
      tags: TAGS,
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

const TAGS = [
  { name: 'Instances', description: 'Virtual machines.' },
  { name: 'Regions', description: 'Where machines run, and what is free there.' },
  { name: 'Plans', description: 'Sizes of machines.' },
  { name: 'Images', description: 'Disks that machines start from.' },
  { name: 'Subnets', description: 'Private networks.' },
  { name: 'SSH keys', description: 'Who may log in to new machines.' },
  { name: 'Webhooks', description: 'HTTP endpoints that receive events, and their delivery log.' },
  { name: 'Events', description: 'What has happened, numbered without gaps.' },
  { name: 'Recovery', description: 'Failures of machines, and how long it took until they were up again.' },
  { name: 'Limits', description: 'What a project may use.' },
  { name: 'Audit log', description: 'Who changed what.' },
  { name: 'Requests', description: 'What was asked, how it was answered, and what came of it.' },
  { name: 'API keys', description: 'Who may do what, from where, and how much of it.' },
  { name: 'Projects', description: 'Tenants, each with keys, networks and environments of its own.' },
  { name: 'Service', description: 'The service itself.' },
]

/** Adds security and error answers to a route's schema. */
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

/** The codes that a route can answer: those of its kind and those that it declares. */
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
  return new Set([...codes, ...problems, 'internal_error', 'unavailable'])
}

/** What is missing from a route's declaration; empty when it is complete. */
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
