/** Reads operations from the OpenAPI document for the tests that are generated from it. */
import { resolve, type Schema } from '../http/examples.ts'
import type { Operation as Documented, OpenapiDocument } from '../http/openapi-document.ts'

type Media = { schema: Schema; example?: unknown; examples?: Record<string, unknown> }

export type Operation = {
  id: string
  /** In upper case. */
  method: string
  /** With `{name}` for each parameter. */
  path: string
  /** The scope that a key needs; `any` for every key, `none` for requests without a key. */
  scope: string
  pathParameters: Parameter[]
  query: Parameter[]
  /** The JSON body. */
  body: { schema: Schema; required: boolean; example: unknown } | null
  /** Whether the body is binary. */
  isRaw: boolean
  /** The documented statuses with the error codes of each. */
  responses: Map<number, string[]>
  /** The JSON schema of a successful response. */
  successSchema: Schema | null
  /** Whether a successful response is a stream instead of JSON. */
  streams: boolean
}
export type Parameter = {
  name: string
  schema: Schema
  required: boolean
  /** The ID prefix of the resource, such as `inst`; null for what the installation defines, such as a plan. */
  type: string | null
}

/** All operations in document order. */
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
  const of = (location: string) =>
    parameters
      .filter((parameter) => parameter.in === location)
      .map(({ name, schema, example, required = false }) => ({
        name,
        schema: example === undefined ? schema : { ...schema, examples: [example] },
        required,
        type: location === 'path' ? typeOf(document, path, name, schema) : null,
      }))
  return {
    id: documented.operationId,
    method: method.toUpperCase(),
    path,
    scope: security.length === 0 ? 'none' : (scopes[0] ?? 'any'),
    pathParameters: of('path'),
    query: of('query'),
    body: json ? { schema: json.schema, required: requestBody!.required, example: exampleOf(document, json) } : null,
    isRaw: requestBody !== undefined && !json,
    responses: new Map(Object.entries(responses).map(([status, response]) => [Number(status), codesOf(response)])),
    successSchema: success['application/json']?.schema ?? null,
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

/** The ID prefix in a pattern such as `^inst_[0-9a-z]{10}$`. */
export function idType(schema: Schema): string | null {
  const names = (schema as { 'x-names'?: string })['x-names']
  return names ?? /^\^([a-z]+)_\[0-9a-z\]\{\d+\}\$$/.exec(schema.pattern ?? '')?.[1] ?? null
}

/** The ID prefix of a parameter: from its pattern, or from the `id` that GET returns at the path up to it. */
function typeOf(document: OpenapiDocument, path: string, name: string, schema: Schema): string | null {
  const own = idType(schema)
  if (own) return own
  const until = path.slice(0, path.indexOf(`{${name}}`) + name.length + 2)
  const shown = document.paths[until]?.get?.responses['200']?.content?.['application/json']?.schema
  const { id } = (shown && resolve(shown, document.components.schemas).properties) ?? {}
  return id ? idType(id) : null
}

/** The ID prefix of the items of a list; null for other responses and for lists of what the installation defines. */
export function listedType(document: OpenapiDocument, { successSchema }: Operation): string | null {
  const { data } = (successSchema && resolve(successSchema, document.components.schemas).properties) ?? {}
  const { id } = (data?.items && resolve(data.items, document.components.schemas).properties) ?? {}
  return id ? idType(id) : null
}

/** The resource references in a body: the pointer as a list of keys (`0` in an array), and the ID prefix. */
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

/** The URL path of an operation with these path parameters. */
export function urlOf(operation: Operation, values: Record<string, string>): string {
  return operation.path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values[name]!))
}
