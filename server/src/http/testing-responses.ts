/** Every answer that a test gets is compared with what the OpenAPI document promises. */
import assert from 'node:assert/strict'
import { Ajv, type ValidateFunction } from 'ajv'
import type { App } from './types.ts'

type Answer = { status: number; headers: Record<string, string | undefined>; body: unknown }
type Documented = { content?: Record<string, { schema: object }> }
type Document = {
  paths: Record<string, Record<string, { responses: Record<string, Documented> }>>
  components: { schemas: Record<string, object> }
}
export type CheckAnswer = (method: string, url: string, answer: Answer) => void

/** Asserts that an answer is documented: its status, its media type and the shape of its body. */
export function createAnswerCheck(app: App): CheckAnswer {
  const document = app.swagger() as unknown as Document
  const ajv = createDocumentAjv(document)
  const compiled = new Map<object, ValidateFunction>()

  return (method, url, { status, headers, body }) => {
    const path = findPath(document, url.split('?', 1)[0]!)
    const operation = path && document.paths[path]![method === 'HEAD' ? 'get' : method.toLowerCase()]
    if (!operation || status === 304 || method === 'HEAD') return
    const documented = operation.responses[status]
    assert.ok(documented, `${method} ${path} answered ${status}, which is not documented: ${JSON.stringify(body)}`)
    if (!documented.content) return assert.equal(body, '')
    const type = String(headers['content-type']).split(';', 1)[0]!
    const schema = documented.content[type]?.schema
    assert.ok(schema, `${method} ${path} answered ${type} with ${status}, which is not documented`)
    if (!compiled.has(schema)) compiled.set(schema, ajv.compile(schema))
    const validate = compiled.get(schema)!
    assert.ok(
      validate(body),
      `${method} ${path} ${status}: ${ajv.errorsText(validate.errors)}: ${JSON.stringify(body)}`,
    )
  }
}

/** Ajv that knows the document's named schemas by the references that the document uses. */
export function createDocumentAjv(document: { components: { schemas: Record<string, object> } }): Ajv {
  const ajv = new Ajv({ allErrors: true, strict: false, formats: { 'date-time': DATE_TIME, binary: true } })
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    ajv.addSchema(schema, `#/components/schemas/${name}`)
  }
  return ajv
}

const DATE_TIME = /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ$/

function findPath(document: Document, path: string): string | undefined {
  const parts = path.split('/')
  return Object.keys(document.paths).find((pattern) => {
    const wanted = pattern.split('/')
    return wanted.length === parts.length && wanted.every((part, i) => part.startsWith('{') || part === parts[i])
  })
}
