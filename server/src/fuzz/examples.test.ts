/** The examples of the document are not only of the right form: sent as they are, they do what they say. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { caller } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { addressOf, operationsOf } from './document.ts'
import { makeResource } from './resources.ts'

const world = await createWorld()
after(() => world.stop())
await world.app.ready()
const document = world.app.swagger() as unknown as OpenapiDocument
const operations = operationsOf(document)

for (const operation of operations.filter(({ body }) => body !== null)) {
  const { id, method, pathParameters, body, scope } = operation
  test(`${id}: the example of its body is accepted, or refused for the state of things alone`, async () => {
    const call = scope === 'admin' ? world.callTest : caller(world.app, (await world.tenant()).test.key)
    const values: Record<string, string> = {}
    for (const { name, type } of pathParameters) values[name] = await makeResource(type!, call, operations, document)
    const answer = await call(method, addressOf(operation, values), body!.example)
    assert.ok(answer.status < 300 || answer.status === 409, `${answer.status} ${JSON.stringify(answer.body)}`)
    // What needs nothing to be there first has no such excuse.
    if (pathParameters.length === 0) assert.equal(answer.status, 201)
  })
}
