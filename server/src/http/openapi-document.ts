/** The last touch to the OpenAPI document: what every operation has in common and no route has to say. Pure. */
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
 * the bodies that are not named yet by their titles.
 * @param codesOf the codes of each operation by its operationId
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

/** A body that is optional is `null` when it is absent: in the document that is `required: false`. */
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
    if (status === '503') names.push('Retry-After')
    response.headers = {
      ...response.headers,
      ...Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
    }
  }
  const shown = operation.responses['200']?.content?.['application/json']?.schema
  if (method === 'get' && shown?.$ref && !isPage(shown)) {
    use('IfNoneMatch')
    operation.responses['304'] = {
      description: 'It is as you have it: its ETag is among those of `If-None-Match`.',
      headers: operation.responses['200']!.headers!,
    }
  }
  if (codes.get(412)) use('IfMatch')
  use('RequestId')
  operation.parameters = parameters
}

/** An example for each body, shared by all that are of one named schema; and one for each problem. */
function addExamples(operation: Operation, codes: CodesByStatus, named: NamedSchemas, examples: Examples): void {
  const share = (media: Media, name: string, value: () => Example) => {
    if (!examples.has(name)) examples.set(name, value())
    media.examples = { ...media.examples, [name]: { $ref: `#/components/examples/${name}` } }
  }
  const show = (media: Media, fields: 'all' | 'telling') => {
    const value = () => exampleOf(media.schema, named, fields)
    const name = media.schema.$ref?.split('/').at(-1)
    if (name === undefined) media.example ??= value()
    else share(media, name, () => ({ value: value() }))
  }
  const json = operation.requestBody?.content['application/json']
  if (json) show(json, 'telling')
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
  const detail = `${title}. What to do stands here.`
  const instance = `urn:cloudnexus:request:${request_id}`
  return {
    summary: title,
    value: { type: `urn:cloudnexus:problem:${code}`, title, status, detail, instance, code, request_id },
  }
}

const HEADERS = {
  'X-Request-ID': {
    description:
      'The id of the request: the one that you sent, or a new one. Everything about the request is found by it.',
    required: true,
    schema: { type: 'string', pattern: '^[A-Za-z0-9._-]{1,128}$', examples: ['req_3x9y2z1a0b5c7d8e4f6g'] },
  },
  ETag: {
    description: 'Version of what is shown, for `If-Match` and `If-None-Match`.',
    required: true,
    schema: { type: 'string', examples: ['"1"'] },
  },
  Location: {
    description: 'Address of what was made.',
    required: true,
    schema: { type: 'string', examples: ['http://127.0.0.1:8080/v2/instances/inst_3x9y2z1a0b'] },
  },
  Link: {
    description: 'Address of the next page, with `rel="next"` (RFC 8288); absent on the last page.',
    schema: { type: 'string', examples: ['<http://127.0.0.1:8080/v2/instances?cursor=…>; rel="next"'] },
  },
  'Retry-After': {
    description: 'Seconds after which to try again.',
    required: true,
    schema: { type: 'string', pattern: '^[0-9]+$', examples: ['2'] },
  },
  'WWW-Authenticate': {
    description: 'How to authenticate.',
    required: true,
    schema: { type: 'string', examples: ['Bearer'] },
  },
} as const

const PARAMETERS = {
  RequestId: {
    name: 'X-Request-ID',
    in: 'header',
    description:
      'An id of your own for this request. One that has another form, or begins with `req_`, is replaced by a new one.',
    schema: { type: 'string', pattern: '^(?!req_)[A-Za-z0-9._-]{1,128}$', examples: ['order-4711'] },
  },
  IfMatch: {
    name: 'If-Match',
    in: 'header',
    description: 'ETags of the versions that the request is for. If it is another one by now, nothing is done (412).',
    schema: { type: 'string', examples: ['"1"'] },
  },
  IfNoneMatch: {
    name: 'If-None-Match',
    in: 'header',
    description: 'ETags that you have. If it is one of them still, the answer is 304, without a body.',
    schema: { type: 'string', examples: ['"1"'] },
  },
} as const
