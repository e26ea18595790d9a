/** What the tests that are generated from the OpenAPI document need to know of it. */
import { resolve, type Schema } from '../http/examples.ts'
import type { Operation as Documented, OpenapiDocument } from '../http/openapi-document.ts'

type Media = { schema: Schema; example?: unknown; examples?: Record<string, unknown> }

export type Operation = {
  id: string
  /** In capitals. */
  method: string
  /** With `{name}` for each parameter. */
  path: string
  /** What a key needs; `any`: every key; `none`: no key. */
  scope: string
  pathParameters: Parameter[]
  query: Parameter[]
  /** Of a JSON body. */
  body: { schema: Schema; required: boolean; example: unknown } | null
  /** The body is bytes. */
  raw: boolean
  /** Statuses that are documented, and for each the codes of its problems. */
  answers: Map<number, string[]>
  /** The schema of a success in JSON. */
  answer: Schema | null
  /** Whether a success is an endless or plain stream rather than JSON. */
  streams: boolean
}
export type Parameter = {
  name: string
  schema: Schema
  required: boolean
  /** The type of resource that it identifies, such as `inst`; null: something of the installation, such as a plan. */
  type: string | null
}

/** All operations of the document, in its order. */
export function operationsOf(document: OpenapiDocument): Operation[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => read(document, path, method, operation)),
  )
}

function read(document: OpenapiDocument, path: string, method: string, documented: Documented): Operation {
  const { security, requestBody, responses } = documented
  const json = requestBody?.content['application/json'] as Media | undefined
  const scopes = security.flatMap(({ api_key }) => api_key ?? [])
  const success = Object.entries(responses).find(([status]) => status < '300')?.[1].content ?? {}
  const parameters = (documented.parameters ?? []) as unknown as (Parameter & Media & { in: string })[]
  const of = (place: string) =>
    parameters
      .filter((parameter) => parameter.in === place)
      .map(({ name, schema, example, required = false }) => ({
        name,
        schema: example === undefined ? schema : { ...schema, examples: [example] },
        required,
        type: place === 'path' ? typeOf(document, path, name, schema) : null,
      }))
  return {
    id: documented.operationId,
    method: method.toUpperCase(),
    path,
    scope: security.length === 0 ? 'none' : (scopes[0] ?? 'any'),
    pathParameters: of('path'),
    query: of('query'),
    body: json ? { schema: json.schema, required: requestBody!.required, example: exampleOf(document, json) } : null,
    raw: requestBody !== undefined && !json,
    answers: new Map(Object.entries(responses).map(([status, response]) => [Number(status), codesOf(response)])),
    answer: success['application/json']?.schema ?? null,
    streams: Object.keys(success).some((type) => type !== 'application/json'),
  }
}

function codesOf(response: Documented['responses'][string]): string[] {
  return Object.keys(response.content?.['application/problem+json']?.examples ?? {})
}

function exampleOf(document: OpenapiDocument, { example, examples = {} }: Media): unknown {
  const [named] = Object.values(examples) as { $ref?: string; value?: unknown }[]
  if (named === undefined) return example
  return named.$ref
    ? (document.components.examples![named.$ref.split('/').at(-1)!] as Media & { value: unknown }).value
    : named.value
}

/** `inst` of a pattern such as `^inst_[0-9a-z]{10}$`. */
export function idType(schema: Schema): string | null {
  const names = (schema as { 'x-names'?: string })['x-names']
  return names ?? /^\^([a-z]+)_\[0-9a-z\]\{\d+\}\$$/.exec(schema.pattern ?? '')?.[1] ?? null
}

/** By the parameter's own form, or by the `id` of what GET shows at the address that the parameter ends. */
function typeOf(document: OpenapiDocument, path: string, name: string, schema: Schema): string | null {
  const own = idType(schema)
  if (own) return own
  const until = path.slice(0, path.indexOf(`{${name}}`) + name.length + 2)
  const shown = document.paths[until]?.get?.responses['200']?.content?.['application/json']?.schema
  const { id } = (shown && resolve(shown, document.components.schemas).properties) ?? {}
  return id ? idType(id) : null
}

/** The type of the items of a list; null for what is no list, or lists what the installation has. */
export function listedType(document: OpenapiDocument, { answer }: Operation): string | null {
  const { data } = (answer && resolve(answer, document.components.schemas).properties) ?? {}
  const { id } = (data?.items && resolve(data.items, document.components.schemas).properties) ?? {}
  return id ? idType(id) : null
}

/** Where in a body a resource is named: pointer as a list of keys (`0` in an array) and the type of the resource. */
export function referencesIn(
  document: OpenapiDocument,
  schema: Schema,
  at: string[] = [],
): { at: string[]; type: string }[] {
  const { properties = {}, items, ...rest } = resolve(schema, document.components.schemas)
  const type = idType(rest)
  if (type) return [{ at, type }]
  return [
    ...Object.entries(properties).flatMap(([name, field]) => referencesIn(document, field, [...at, name])),
    ...(items ? referencesIn(document, items, [...at, '0']) : []),
  ]
}

/** The address of an operation with these values of its path parameters. */
export function addressOf(operation: Operation, values: Record<string, string>): string {
  return operation.path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values[name]!))
}
