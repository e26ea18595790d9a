import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { SCOPES } from '../keys/scopes.ts'
import { createTestApp } from './testing.ts'
import { createDocumentAjv } from './testing-responses.ts'

const { app, call } = await createTestApp()
after(() => app.close())

type Operation = {
  operationId: string
  summary: string
  tags: string[]
  security: { api_key: string[] }[]
  parameters?: unknown[]
  requestBody?: { content: Record<string, { schema: { $ref?: string } }> }
  responses: Record<string, { description: string; content?: Record<string, { schema: { $ref?: string } }> }>
}
const document = (await call('GET', '/openapi.json')).body
const operations = Object.entries<Record<string, Operation>>(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ name: `${method} ${path}`, operation })),
)

/** Every object in the document, with its path. */
function* objects(value: unknown, at = '#'): Generator<[string, Record<string, unknown>]> {
  if (typeof value !== 'object' || value === null) return
  if (!Array.isArray(value)) yield [at, value as Record<string, unknown>]
  for (const [key, child] of Object.entries(value)) yield* objects(child, `${at}/${key}`)
}

test('operations have unique IDs, a summary, a known tag and known scopes', () => {
  const ids = operations.map(({ operation }) => operation.operationId)
  assert.deepEqual(ids.toSorted(), [...new Set(ids)].toSorted())
  const tags = document.tags.map(({ name }: { name: string }) => name)
  for (const { name, operation } of operations) {
    assert.match(operation.operationId, /^[a-z][A-Za-z]+$/, name)
    assert.ok(operation.summary && !operation.summary.endsWith('.'), name)
    assert.equal(operation.tags.length, 1, name)
    assert.ok(tags.includes(operation.tags[0]), `${name}: ${operation.tags[0]}`)
    for (const scope of operation.security.flatMap(({ api_key }) => api_key)) {
      assert.ok((SCOPES as readonly string[]).includes(scope), `${name}: ${scope}`)
    }
  }
})

test('every error response is a problem, and every operation documents 400, 500, 503 and 507', () => {
  for (const { name, operation } of operations) {
    const statuses = Object.keys(operation.responses)
    for (const status of ['400', '500', '503', '507']) assert.ok(statuses.includes(status), `${name}: ${status}`)
    if (operation.security.length > 0) assert.ok(statuses.includes('401'), name)
    for (const [status, { description, content }] of Object.entries(operation.responses)) {
      assert.ok(description && description !== 'Default Response', `${name}: ${status} has no description`)
      if (status === '304') assert.equal(content, undefined, name)
      if (status < '400') continue
      assert.deepEqual(Object.keys(content!), ['application/problem+json'])
      assert.equal(content!['application/problem+json']!.schema.$ref, '#/components/schemas/Problem')
    }
  }
})

test('all references can be resolved', () => {
  for (const [at, { $ref }] of objects(document)) {
    if (typeof $ref !== 'string') continue
    const [kind, name] = /^#\/components\/(\w+)\/([\w-]+)$/.exec($ref)?.slice(1) ?? []
    assert.ok(kind && name && document.components[kind][name], `${at}: ${$ref}`)
  }
})

test('named schemas are closed, and have descriptions with all fields', () => {
  for (const [name, schema] of Object.entries<Record<string, any>>(document.components.schemas)) {
    assert.ok(schema.description, name)
    if (schema.anyOf) continue
    if (name !== 'Problem') assert.equal(schema.additionalProperties, false, name)
    for (const [field, property] of Object.entries<Record<string, unknown>>(schema.properties)) {
      if (property.$ref || name.endsWith('Page')) continue
      assert.ok(property.description, `${name}.${field}`)
    }
  }
})

const ajv = createDocumentAjv(document)
const exampleOf = (example: any) =>
  example.$ref ? document.components.examples[example.$ref.split('/').at(-1)].value : example.value

/** All examples of fields, named schemas and bodies, with their schemas. */
function* allExamples(): Generator<[at: string, schema: object, value: unknown]> {
  for (const [at, owner] of objects(document)) {
    const { example, examples, schema } = owner
    const owned = (schema ?? owner) as object
    if (example !== undefined) yield [at, owned, example]
    if (Array.isArray(examples)) for (const value of examples) yield [at, owned, value]
    else if (schema) for (const named of Object.values(examples ?? {})) yield [at, owned, exampleOf(named)]
  }
}

test('examples are valid', () => {
  let count = 0
  for (const [at, schema, value] of allExamples()) {
    const validate = ajv.compile(schema)
    assert.ok(validate(value), `${at}: ${ajv.errorsText(validate.errors)}: ${JSON.stringify(value)}`)
    count++
  }
  assert.ok(count > 20, `${count} examples`)
})

test('every body has an example (add `examples: [...]` to string fields)', () => {
  const media = (bodies: Record<string, any> = {}) =>
    Object.entries(bodies).filter(([type, { schema }]) => /[/+]json\b/.test(type) && schema)
  for (const { name, operation } of operations) {
    const responses = Object.values(operation.responses).flatMap(({ content }) => media(content))
    for (const [type, { example, examples }] of [...responses, ...media(operation.requestBody?.content)]) {
      const values = [example, ...Object.values(examples ?? {}).map(exampleOf)].filter((value) => value !== undefined)
      assert.ok(values.length > 0, `${name}: ${type} has no example`)
    }
  }
})

test('JSON bodies are named schemas', () => {
  for (const { name, operation } of operations.filter(({ name }) => name.includes(' /v2/'))) {
    const responses = Object.entries(operation.responses).map(([status, { content }]) => [status, content] as const)
    for (const [what, content] of [...responses, ['request', operation.requestBody?.content] as const]) {
      const schema = content?.['application/json']?.schema
      if (schema) assert.ok(schema.$ref, `${name}: the schema of its ${what} has no name ($id or title)`)
    }
  }
})

/** The unbounded parts of a request schema. */
function* unbounded(schema: any, at: string): Generator<string> {
  if (schema.$ref) return yield* unbounded(document.components.schemas[schema.$ref.split('/').at(-1)], at)
  const types = [schema.type].flat()
  const isEndless = (pattern = '*') => /[*+]|,\}/.test(pattern.replace(/\[[^\]]*\]/g, 'x'))
  if (types.includes('string') && !schema.enum && schema.maxLength === undefined && isEndless(schema.pattern)) yield at
  if ((types.includes('integer') || types.includes('number')) && schema.maximum === undefined) yield at
  if (types.includes('array') && schema.maxItems === undefined) yield at
  if (types.includes('object') && schema.additionalProperties !== false && schema.maxProperties === undefined) yield at
  for (const [name, field] of Object.entries(schema.properties ?? {})) yield* unbounded(field, `${at}/${name}`)
  if (typeof schema.additionalProperties === 'object') yield* unbounded(schema.additionalProperties, `${at}/*`)
  if (schema.items) yield* unbounded(schema.items, `${at}/0`)
  for (const one of schema.anyOf ?? []) yield* unbounded(one, at)
}

test('all strings, arrays, objects and numbers in a request are bounded', () => {
  const found = operations.flatMap(({ name, operation }) => [
    ...unbounded(operation.requestBody?.content['application/json']?.schema ?? {}, name),
    // Strings in a URL are bounded by its maximum length of 8 KiB.
    ...(operation.parameters ?? []).flatMap((parameter: any) =>
      /integer|array/.test(String(parameter.schema?.type))
        ? [...unbounded({ ...parameter.schema, items: undefined }, name)]
        : [],
    ),
  ])
  assert.deepEqual(found, [])
  assert.deepEqual([...unbounded({ type: 'object', properties: { a: { type: 'string' } } }, '#')], ['#', '#/a'])
})

test('patterns compile with the flag u, as JSON Schema requires', () => {
  for (const [at, { pattern }] of objects(document)) {
    if (typeof pattern === 'string') assert.doesNotThrow(() => new RegExp(pattern, 'u'), at)
  }
})
