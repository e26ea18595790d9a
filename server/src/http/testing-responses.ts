/** Checks every response in tests against the OpenAPI document. */
import assert from 'node:assert/strict'
import { Ajv, type ValidateFunction } from 'ajv'
import type { OpenapiDocument, Operation } from './openapi-document.ts'
import { describeKeywords } from './validation.ts'

export type SeenResponse = { status: number; headers: Record<string, string | undefined>; body: unknown }
export type CheckResponse = (method: string, url: string, response: SeenResponse) => void

/**
 * Asserts that a response is documented: status, headers, media type, body, and the code of a problem; and that it has
 * an X-Request-ID, which a problem repeats in its body.
 */
export function createResponseCheck(document: OpenapiDocument): CheckResponse {
  const ajv = createDocumentAjv(document)
  const compiled = new Map<object, ValidateFunction>()
  const fits = (schema: object, body: unknown, where: string) => {
    if (!compiled.has(schema)) compiled.set(schema, ajv.compile(schema))
    const validate = compiled.get(schema)!
    assert.ok(validate(body), `${where}: ${ajv.errorsText(validate.errors)}: ${JSON.stringify(body)}`)
  }

  return (method, url, { status, headers, body }) => {
    const found = findOperation(document, method === 'HEAD' ? 'GET' : method, url)
    const where = `${method} ${found?.path ?? url} ${status}`
    const id = headers['x-request-id']
    assert.match(id ?? '', /^[A-Za-z0-9._-]{1,128}$/, `${where} has no X-Request-ID`)
    const type = String(headers['content-type']).split(';', 1)[0]!
    if (status >= 400 && method !== 'HEAD') {
      assert.equal(type, 'application/problem+json', where)
      fits(PROBLEM, body, where)
      const problem = body as { status: number; request_id: string }
      assert.deepEqual([problem.status, problem.request_id], [status, id], where)
    }
    if (!found) return
    const documented = found.operation.responses[status]
    assert.ok(documented, `${where} is not documented: ${JSON.stringify(body)}`)
    for (const [name, header] of Object.entries(documented.headers ?? {})) {
      const { required, schema } = resolveHeader(document, header)
      const value = headers[name.toLowerCase()]
      assert.ok(value !== undefined || !required, `${where} has no ${name}`)
      const isNumber = (schema as { type?: string }).type === 'integer'
      if (value !== undefined) fits(schema, isNumber ? Number(value) : value, `${where} ${name}`)
    }
    if (method === 'HEAD') return
    if (!documented.content) return assert.equal(body, '', where)
    const media = documented.content[type]
    assert.ok(media, `${where} with ${type} is not documented`)
    fits(media.schema, body, where)
    const { code } = body as { code?: string }
    if (status >= 400) assert.ok(code! in media.examples!, `${where} with the code ${code} is not documented`)
  }
}

/** A constant, so that it is compiled once. */
const PROBLEM = { $ref: '#/components/schemas/Problem' }

/** An Ajv that resolves the references of the document to its named schemas. */
export function createDocumentAjv(document: OpenapiDocument): Ajv {
  const ajv = new Ajv({ allErrors: true, strict: false, formats: { 'date-time': DATE_TIME, binary: true } })
  describeKeywords(ajv)
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    ajv.addSchema(schema, `#/components/schemas/${name}`)
  }
  return ajv
}

const DATE_TIME = /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ$/

type Header = { required?: boolean; schema: object }

function resolveHeader(document: OpenapiDocument, header: unknown): Header {
  const { $ref } = header as { $ref?: string }
  return ($ref ? document.components.headers![$ref.split('/').at(-1)!] : header) as Header
}

function findOperation(
  document: OpenapiDocument,
  method: string,
  url: string,
): { path: string; operation: Operation } | undefined {
  const parts = url.split('?', 1)[0]!.split('/')
  for (const [path, methods] of Object.entries(document.paths)) {
    const pattern = path.split('/')
    if (pattern.length !== parts.length) continue
    if (!pattern.every((part, i) => (part.startsWith('{') ? parts[i] !== '' : part === parts[i]))) continue
    const operation = methods[method.toLowerCase()]
    if (operation) return { path, operation }
  }
  return undefined
}
