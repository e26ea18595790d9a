/** Each fault that is injected into a correct response is found by the fuzzer's oracle. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { type Call, createTestApp, type Response } from '../http/testing.ts'
import type { SeenResponse } from '../http/testing-responses.ts'
import { operationsOf } from './document.ts'
import { type Budgeted, createOracle, type Presence } from './oracle.ts'
import type { SentRequest } from './request.ts'
import { makeResource } from './resources.ts'
import type { Attack, By } from './steps.ts'

const { app, call } = await createTestApp()
after(() => app.close())
await app.ready()
const document = app.swagger() as unknown as OpenapiDocument
const oracle = createOracle(document)
const operations = operationsOf(document)
const operation = operations.find(({ id }) => id === 'createSshKey')!
const right = await call('POST', '/v2/ssh_keys', operation.body!.example)
const refused = await call('POST', '/v2/ssh_keys', { name: 5 })

function judge(
  response: SeenResponse,
  given: { attack?: Attack; json?: unknown; presence?: Presence; id?: string; by?: By; budgeted?: Budgeted } = {},
) {
  const { attack = { kind: 'none' }, presence = 'present', json = operation.body!.example, by = 'tenant' } = given
  const headers: SentRequest['headers'] = given.id === undefined ? {} : { 'x-request-id': given.id }
  const sent: SentRequest = {
    method: 'POST',
    url: '/v2/ssh_keys',
    headers,
    payload: JSON.stringify(json),
    path: [],
    query: {},
    json,
  }
  oracle.judge(
    { step: 'call', tenant: 0, by, operation, path: [], query: {}, body: json, attack },
    sent,
    response,
    presence,
    given.budgeted,
  )
}
const header = (response: SeenResponse, headers: Record<string, string | undefined>) => ({
  ...response,
  headers: { ...response.headers, ...headers },
})
const body = (response: SeenResponse, fields: object) => ({
  ...response,
  body: { ...(response.body as object), ...fields },
})

test('accepts correct responses', () => {
  assert.equal(right.status, 201)
  assert.doesNotThrow(() => judge(right))
  assert.doesNotThrow(() => judge(refused, { json: { name: 5 } }))
})

const FAULTS: [what: string, run: () => void, message: RegExp][] = [
  ['500', () => judge({ ...right, status: 500 }), /server failed/],
  ['503', () => judge({ ...right, status: 503 }), /server failed/],
  ['500 for an invalid body', () => judge({ ...refused, status: 500 }, { json: { name: 5 } }), /server failed/],
  [
    '500 for an invalid key',
    () => judge({ ...right, status: 500 }, { attack: { kind: 'key', how: 'none' } }),
    /failed/,
  ],
  ['500 for a method', () => judge({ ...right, status: 500 }, { attack: { kind: 'method', method: 'PUT' } }), /failed/],
  ['500 for a missing resource', () => judge({ ...right, status: 500 }, { presence: 'absent' }), /server failed/],
  ['an undocumented status', () => judge({ ...right, status: 203 }), /not documented/],
  ['an undocumented type', () => judge(header(right, { 'content-type': 'text/html' })), /not documented/],
  ['a body of another type', () => judge(body(right, { default: 'yes' })), /default/],
  ['an additional field', () => judge(body(right, { pepper: 'x' })), /additional/],
  ['a code that is not documented', () => judge(body(refused, { code: 'teapot' }), { json: {} }), /teapot/],
  ['no request id', () => judge(header(right, { 'x-request-id': undefined })), /X-Request-ID/],
  ['another request id in the problem', () => judge(body(refused, { request_id: 'req_x' }), { json: {} }), /req_x/],
  ["the client's own id not echoed", () => judge(right, { id: 'mine' }), /mine/],
  ['an invalid ID echoed', () => judge(header(right, { 'x-request-id': 'a b' }), { id: 'a b' }), /X-Request-ID/],
  ['no Location', () => judge(header(right, { location: undefined })), /Location/],
  ['an invalid request accepted', () => judge(right, { json: { name: 5 } }), /not valid/],
  ['a valid request rejected', () => judge(refused), /valid as the document says/],
  ['an invalid key accepted', () => judge(right, { attack: { kind: 'key', how: 'none' } }), /401/],
  ["another tenant's resource found", () => judge(right, { presence: 'absent' }), /404/],
  ['a stack', () => judge(body(refused, { detail: 'at x (/srv/app.ts:1:1)' }), { json: {} }), /internals/],
  ['SQL', () => judge(body(refused, { detail: 'select * from keys' }), { json: {} }), /internals/],
  ['a driver', () => judge(body(refused, { detail: 'connect ECONNREFUSED' }), { json: {} }), /internals/],
]
for (const [what, run, message] of FAULTS) test(`finds ${what}`, () => assert.throws(run, message))

for (const failing of ['PUT /v2/webhooks', 'POST /v2/webhooks']) {
  test(`finds 500 of ${failing} while the fuzzer creates a resource`, async () => {
    const failingCall: Call = async (method, url, ...rest) => {
      if (`${method} ${url}`.startsWith(`${failing}/`)) return { status: 500, headers: {}, body: {} } as Response
      return call(method, url, ...rest)
    }
    const parents = [(await call('POST', '/v2/webhooks', { url: 'https://hooks.test/', events: ['*'] })).body.id]
    await assert.rejects(
      makeResource('dlv', failingCall, operations, document, parents),
      /creating a resource failed: 500/,
    )
  })
}

test('finds a key with a budget that changes what its budget has not made, and one that is refused what it has', () => {
  const problem = {
    ...refused,
    status: 403,
    body: { ...refused.body, status: 403, code: 'not_in_budget', errors: undefined },
  }
  assert.throws(() => judge(right, { budgeted: 'outside', by: 'budget' }), /changed an instance of another key/)
  assert.throws(() => judge(problem, { budgeted: 'inside', by: 'budget' }))
  assert.throws(() => judge(problem, { by: 'tenant' }))
})
