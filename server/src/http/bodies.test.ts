/** For every body schema of the OpenAPI document: the work of a rejection does not grow with the body. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { worstBodies } from './testing-bodies.ts'
import { counted } from './testing-reads.ts'
import { buildValidator, schemaError } from './validation.ts'

const document = JSON.parse(readFileSync(join(import.meta.dirname, '../../../openapi.json'), 'utf8'))
const components = document.components.schemas
/** The schemas of the document as the server has them: referred to by their names. */
const shared: Record<string, object> = JSON.parse(JSON.stringify(components).replaceAll('"#/components/schemas/', '"'))
const named = Object.entries(shared).map(([$id, schema]) => [$id, { $id, ...schema }])
const compile = buildValidator(Object.fromEntries(named))

type Operation = { requestBody?: { content: Record<string, { schema: { $ref: string } }> } }
const paths: Record<string, Operation>[] = Object.values(document.paths)
const operations = paths.flatMap((path) => Object.values(path))
const schemas = new Set<string>(
  operations.flatMap(
    ({ requestBody }) => requestBody?.content['application/json']?.schema.$ref.split('/').at(-1) ?? [],
  ),
)

for (const name of schemas) {
  test(`${name}: four times the body takes as many reads and reports at most 100 errors`, () => {
    const validate = compile({ schema: { $ref: name }, httpPart: 'body' })
    const readsOf = (body: unknown): number => {
      const { value, count } = counted(body as object)
      if (!validate(value)) assert.ok(schemaError(validate.errors!, 'body').errors!.length <= 100)
      return count()
    }
    const [small, large] = [2 ** 16, 2 ** 18].map((bytes) => worstBodies(components[name], components, bytes))
    assert.ok(small!.length > 0)
    for (const [i, { name: kind, body }] of large!.entries())
      assert.equal(readsOf(body), readsOf(small![i]!.body), kind)
  })
}

test('covers the operations with a JSON body', () => assert.ok(schemas.size >= 15, [...schemas].join()))
