/** Sends the example body of every operation. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { caller } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { operationsOf, urlOf } from './document.ts'
import { makeResource } from './resources.ts'

const world = await createWorld()
after(() => world.stop())
await world.app.ready()
const document = world.app.swagger() as unknown as OpenapiDocument
const operations = operationsOf(document)

for (const operation of operations.filter(({ body }) => body !== null)) {
  const { id, method, pathParameters, body, scope } = operation
  test(`${id}: accepts the example body, or returns 409`, async () => {
    const call = scope === 'admin' ? world.callTest : caller(world.app, (await world.tenant()).test.key)
    const values: Record<string, string> = {}
    for (const { name, type } of pathParameters) values[name] = await makeResource(type!, call, operations, document)
    const response = await call(method, urlOf(operation, values), body!.example)
    assert.ok(response.status < 300 || response.status === 409, `${response.status} ${JSON.stringify(response.body)}`)
    // Operations without a prerequisite must not return 409.
    if (pathParameters.length === 0) assert.equal(response.status, 201)
  })
}
