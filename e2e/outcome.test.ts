import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { isBrokenConnection, outcomeOf, responseOf } from './outcome.ts'
import { InvariantViolationError } from './watch.ts'

for (const [status, outcome] of [
  [201, 'done'],
  [204, 'done'],
  [409, 'refused'],
  [429, 'unknown'],
  [503, 'unknown'],
] as const) {
  test(`the outcome of a ${status} is ${outcome}`, () => {
    assert.equal(outcomeOf('GET /', { status, body: {} }), outcome)
  })
}

for (const status of [500, 502, 504]) {
  test(`a ${status} is a violation`, async () => {
    const violates = (error: unknown) =>
      error instanceof InvariantViolationError && error.findings[0]?.kind === 'responses'
    assert.throws(() => outcomeOf('GET /', { status, body: {} }), violates)
    await assert.rejects(responseOf('GET /', Promise.resolve({ status, body: {} })), violates)
  })
}

test('a connection that is refused or cut has no response', async () => {
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-length': 10 }).write('x', () => response.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const read = async () => {
    const response = await fetch(url)
    return { status: response.status, body: await response.text() }
  }
  assert.equal(await responseOf('GET /', read()), null, 'cut')
  server.close()
  server.closeAllConnections()
  await once(server, 'close')
  assert.equal(await responseOf('GET /', read()), null, 'refused')
})

test('any other error is no broken connection', async () => {
  for (const error of [new SyntaxError('no JSON'), new TypeError('x is not a function'), new assert.AssertionError({})])
    assert.equal(isBrokenConnection(error), false)
  await assert.rejects(responseOf('GET /', Promise.reject(new SyntaxError('no JSON'))), SyntaxError)
})
