/** The judge of the fuzzer sees what it is there for: each fault planted in an answer that was right is found. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { createTestApp } from '../http/testing.ts'
import type { SeenResponse } from '../http/testing-responses.ts'
import { operationsOf } from './document.ts'
import { createOracle, type Presence } from './oracle.ts'
import type { SentRequest } from './request.ts'
import type { Attack } from './steps.ts'

const { app, call } = await createTestApp()
after(() => app.close())
await app.ready()
const document = app.swagger() as unknown as OpenapiDocument
const oracle = createOracle(document)
const operation = operationsOf(document).find(({ id }) => id === 'createSshKey')!
const right = await call('POST', '/v2/ssh_keys', operation.body!.example)
const refused = await call('POST', '/v2/ssh_keys', { name: 5 })

function judge(
  answer: SeenResponse,
  given: { attack?: Attack; json?: unknown; presence?: Presence; id?: string } = {},
) {
  const { attack = { kind: 'nothing' }, presence = 'there', json = operation.body!.example } = given
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
  oracle.judge({ step: 'call', tenant: 0, operation, path: [], query: {}, body: json, attack }, sent, answer, presence)
}
const header = (answer: SeenResponse, headers: Record<string, string | undefined>) => ({
  ...answer,
  headers: { ...answer.headers, ...headers },
})
const body = (answer: SeenResponse, fields: object) => ({ ...answer, body: { ...(answer.body as object), ...fields } })

test('what is right is let through', () => {
  assert.equal(right.status, 201)
  assert.doesNotThrow(() => judge(right))
  assert.doesNotThrow(() => judge(refused, { json: { name: 5 } }))
})

const FAULTS: [what: string, run: () => void, said: RegExp][] = [
  ['500', () => judge({ ...right, status: 500 }), /server failed/],
  ['an undocumented status', () => judge({ ...right, status: 203 }), /not documented/],
  ['an undocumented type', () => judge(header(right, { 'content-type': 'text/html' })), /not documented/],
  ['a body of another shape', () => judge(body(right, { default: 'yes' })), /default/],
  ['a field too many', () => judge(body(right, { pepper: 'x' })), /additional/],
  ['a code that is not documented', () => judge(body(refused, { code: 'teapot' }), { json: {} }), /teapot/],
  ['no request id', () => judge(header(right, { 'x-request-id': undefined })), /X-Request-ID/],
  ['another request id in the problem', () => judge(body(refused, { request_id: 'req_x' }), { json: {} }), /req_x/],
  ["the client's own id not echoed", () => judge(right, { id: 'mine' }), /mine/],
  [
    'an id that is not acceptable, echoed',
    () => judge(header(right, { 'x-request-id': 'a b' }), { id: 'a b' }),
    /X-Request-ID/,
  ],
  ['no Location', () => judge(header(right, { location: undefined })), /Location/],
  ['a wrong request accepted', () => judge(right, { json: { name: 5 } }), /not valid/],
  ['a right request refused', () => judge(refused), /as the document says/],
  ['a key that is not valid accepted', () => judge(right, { attack: { kind: 'key', how: 'none' } }), /401/],
  ["another's thing found", () => judge(right, { presence: 'absent' }), /404/],
  ['a stack', () => judge(body(refused, { detail: 'at x (/srv/app.ts:1:1)' }), { json: {} }), /inside/],
  ['SQL', () => judge(body(refused, { detail: 'select * from keys' }), { json: {} }), /inside/],
  ['a driver', () => judge(body(refused, { detail: 'connect ECONNREFUSED' }), { json: {} }), /inside/],
]
for (const [what, run, said] of FAULTS) test(`found: ${what}`, () => assert.throws(run, said))
