/** Completes the OpenAPI document with what all operations have in common. Pure. */
import { CATALOGUE, type ErrorCode } from '../lib/errors.ts'
import { exampleOf, type NamedSchemas, type Schema } from './examples.ts'

type Media = { schema: Schema; example?: unknown; examples?: Record<string, unknown> }
type Response = { description: string; headers?: Record<string, unknown>; content?: Record<string, Media> }
type Parameter = { $ref: string } | { name: string; in: string; schema: Schema; style?: string; explode?: boolean }
export type Operation = {
  operationId: string
  summary: string
  tags: string[]
  security: Record<string, string[]>[]
  parameters?: Parameter[]
  requestBody?: { required: boolean; content: Record<string, Media> }
  responses: Record<string, Response>
}
export type OpenapiDocument = {
  paths: Record<string, Record<string, Operation>>
  components: { schemas: NamedSchemas } & Record<string, Record<string, unknown>>
}
type Example = { summary?: string; value: unknown }
type Examples = Map<string, Example>
/** The problem codes of an operation by status. */
export type CodesByStatus = Map<number, ErrorCode[]>

/**
 * Adds to each operation its headers, its conditional requests and an example of each body and each problem, and names
 * unnamed bodies by their titles.
 * @param codesOf the codes of each operation, by operationId
 */
export function finishDocument(document: OpenapiDocument, codesOf: Map<string, CodesByStatus>): void {
  const named = document.components.schemas
  const examples: Examples = new Map()
  for (const methods of Object.values(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      nameBody(operation, named)
      const codes = codesOf.get(operation.operationId) ?? new Map<number, ErrorCode[]>()
      addHeaders(method, operation, codes)
      addExamples(operation, codes, named, examples)
      for (const parameter of operation.parameters ?? []) {
        // `?tag=a&tag=b`, as the server reads it.
        if ('schema' in parameter && parameter.schema.type === 'array') Object.assign(parameter, REPEATED)
      }
    }
  }
  Object.assign(document.components, {
    headers: HEADERS,
    parameters: PARAMETERS,
    examples: Object.fromEntries([...examples].sort(([a], [b]) => (a < b ? -1 : 1))),
  })
}

const REPEATED = { style: 'form', explode: true }

/** An absent optional body is `null` in the route's schema; the document says `required: false` instead. */
function nameBody({ requestBody }: Operation, named: NamedSchemas): void {
  const media = requestBody?.content['application/json']
  if (!requestBody || !media || media.schema.$ref) return
  const { title, type, ...schema } = media.schema as Schema & { title?: string }
  if (title === undefined) return
  requestBody.required = ![type].flat().includes('null')
  named[title] = { type: 'object', ...schema }
  media.schema = { $ref: `#/components/schemas/${title}` }
}

const isPage = (schema: Schema | undefined) => schema?.$ref?.endsWith('Page') ?? false

function addHeaders(method: string, operation: Operation, codes: CodesByStatus): void {
  const parameters = operation.parameters ?? []
  const use = (name: keyof typeof PARAMETERS) => parameters.push({ $ref: `#/components/parameters/${name}` })
  for (const [status, response] of Object.entries(operation.responses)) {
    const schema = response.content?.['application/json']?.schema
    const names: (keyof typeof HEADERS)[] = ['X-Request-ID']
    if (status === '201') names.push('Location')
    if (status < '300' && schema?.$ref) names.push(isPage(schema) ? 'Link' : 'ETag')
    if (status === '401') names.push('WWW-Authenticate')
    if (status === '503' || status === '507') names.push('Retry-After')
    response.headers = {
      ...response.headers,
      ...Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
    }
  }
  const shown = operation.responses['200']?.content?.['application/json']?.schema
  if (method === 'get' && shown?.$ref && !isPage(shown)) {
    use('IfNoneMatch')
    operation.responses['304'] = {
      description: 'Not modified: the ETag of the resource is listed in `If-None-Match`.',
      headers: operation.responses['200']!.headers!,
    }
  }
  if (codes.get(412)) use('IfMatch')
  use('RequestId')
  operation.parameters = parameters
}

/** Adds an example for each body, shared by all bodies of one named schema, and one for each problem. */
function addExamples(operation: Operation, codes: CodesByStatus, named: NamedSchemas, examples: Examples): void {
  const share = (media: Media, name: string, value: () => Example) => {
    if (!examples.has(name)) examples.set(name, value())
    media.examples = { ...media.examples, [name]: { $ref: `#/components/examples/${name}` } }
  }
  const show = (media: Media, fields: 'all' | 'with_example') => {
    const value = () => exampleOf(media.schema, named, fields)
    const name = media.schema.$ref?.split('/').at(-1)
    if (name === undefined) media.example ??= value()
    else share(media, name, () => ({ value: value() }))
  }
  const json = operation.requestBody?.content['application/json']
  if (json) show(json, 'with_example')
  for (const [status, { content = {} }] of Object.entries(operation.responses)) {
    for (const [type, media] of Object.entries(content)) {
      if (type !== 'application/problem+json') show(media, 'all')
      else for (const code of codes.get(Number(status)) ?? []) share(media, code, () => problemExample(code))
    }
  }
}

function problemExample(code: ErrorCode): Example {
  const [status, title] = CATALOGUE[code]
  const request_id = 'req_3x9y2z1a0b5c7d8e4f6g'
  const detail = `${title}. This text says what to do.`
  const instance = `urn:cloudnexus:request:${request_id}`
  return {
    summary: title,
    value: { type: `urn:cloudnexus:problem:${code}`, title, status, detail, instance, code, request_id },
  }
}

const HEADERS = {
  'X-Request-ID': {
    description:
      'ID of the request: the one that you sent, or a new one. Use it to find the request in logs and in `/v2/requests`.',
    required: true,
    schema: { type: 'string', pattern: '^[A-Za-z0-9._-]{1,128}$', examples: ['req_3x9y2z1a0b5c7d8e4f6g'] },
  },
  ETag: {
    description: 'Version of the resource, for `If-Match` and `If-None-Match`.',
    required: true,
    schema: { type: 'string', examples: ['"1"'] },
  },
  Location: {
    description: 'URL of the created resource.',
    required: true,
    schema: { type: 'string', examples: ['http://127.0.0.1:8080/v2/instances/inst_3x9y2z1a0b'] },
  },
  Link: {
    description: 'URL of the next page, with `rel="next"` (RFC 8288); absent on the last page.',
    schema: { type: 'string', examples: ['<http://127.0.0.1:8080/v2/instances?cursor=…>; rel="next"'] },
  },
  'Retry-After': {
    description: 'Number of seconds to wait before a retry.',
    required: true,
    schema: { type: 'string', pattern: '^[0-9]+$', examples: ['2'] },
  },
  'WWW-Authenticate': {
    description: 'Authentication scheme.',
    required: true,
    schema: { type: 'string', examples: ['Bearer'] },
  },
} as const

const PARAMETERS = {
  RequestId: {
    name: 'X-Request-ID',
    in: 'header',
    description:
      'Your own ID for this request. A value that does not match the pattern, or begins with `req_`, is replaced.',
    schema: { type: 'string', pattern: '^(?!req_)[A-Za-z0-9._-]{1,128}$', examples: ['order-4711'] },
  },
  IfMatch: {
    name: 'If-Match',
    in: 'header',
    description:
      'ETags that you expect. If the current ETag is not among them, the request changes nothing and returns 412.',
    schema: { type: 'string', examples: ['"1"'] },
  },
  IfNoneMatch: {
    name: 'If-None-Match',
    in: 'header',
    description: 'ETags of your cached copies. If the current ETag is among them, the response is 304 without a body.',
    schema: { type: 'string', examples: ['"1"'] },
  },
} as const
