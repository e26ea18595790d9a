/** Requests on a real connection: malformed, too large, or too slow. */
import assert from 'node:assert/strict'
import { type AddressInfo, connect } from 'node:net'
import { after, test } from 'node:test'
import { Type } from 'typebox'
import { createApp } from '../app.ts'
import { createTestApp } from './testing.ts'
import { createResponseCheck } from './testing-responses.ts'

const { app: base, deps, live } = await createTestApp()
const app = await createApp(deps, {
  ready: async () => [],
  resources: [
    {
      schemas: [],
      routes(app) {
        const schema = { summary: 'Probe', tags: ['Service'], response: { 200: Type.Object({}) } }
        const post = (url: string, operationId: string, body_deadline_ms: number, takes_ms: number) => {
          const config = { scope: 'any', body_deadline_ms } as const
          app.post(url, { config, schema: { ...schema, operationId, body: Type.Object({}) } }, async () => {
            await deps.clock.sleep(takes_ms)
            return {}
          })
        }
        post('/v2/slow', 'probe', 100, 0)
        // Long enough for a body on a busy host; the response is sent after the deadline.
        post('/v2/long', 'probeLong', 3_000, 3_100)
      },
    },
  ],
})
await app.listen({ port: 0, host: '127.0.0.1' })
after(() => Promise.all([app.close(), base.close()]))

const check = createResponseCheck(app.swagger() as never)

/** Sends lines, reads until the server closes, and checks the response against the OpenAPI document. */
function exchange(...lines: string[]): Promise<{ status: number; headers: string; body: string }> {
  return new Promise((resolve, reject) => {
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
    let text = ''
    socket.on('data', (chunk) => (text += chunk)).on('error', reject)
    socket.on('close', () => {
      const [headers = '', body = ''] = text.split('\r\n\r\n')
      const status = Number(headers.split(' ')[1])
      const fields = headers
        .split('\r\n')
        .slice(1)
        .map((line) => line.split(/: (.*)/, 2) as [string, string])
      const [method = '', url = ''] = lines[0]!.split(' ')
      try {
        const named = Object.fromEntries(fields.map(([name, value]) => [name.toLowerCase(), value]))
        check(method, url, { status, headers: named, body: body === '' ? '' : JSON.parse(body) })
      } catch (error) {
        return reject(error)
      }
      resolve({ status, headers, body })
    })
    socket.write(lines.join('\r\n'))
  })
}
const auth = `Authorization: Bearer ${live.key}`

function assertProblem(response: Awaited<ReturnType<typeof exchange>>, status: number, code: string): void {
  assert.equal(response.status, status, response.headers)
  assert.match(response.headers, /content-type: application\/problem\+json/i)
  const body = JSON.parse(response.body)
  assert.deepEqual([body.status, body.code], [status, code])
  assert.match(response.headers.toLowerCase(), new RegExp(`x-request-id: ${body.request_id}`))
}

test('returns 400 for input that is not HTTP', async () => {
  assertProblem(await exchange('hello', '', ''), 400, 'bad_request')
  assertProblem(await exchange('GET / HTTP/1.1', 'Host: x', 'Content-Length: minus', '', ''), 400, 'bad_request')
})

test('returns 400 without Host', async () => {
  assertProblem(await exchange('GET /healthz HTTP/1.1', 'Connection: close', '', ''), 400, 'bad_request')
})

test('returns 431 for headers over 16 KiB', async () => {
  const header = `X-Large: ${'x'.repeat(17 * 1024)}`
  assertProblem(await exchange('GET /healthz HTTP/1.1', 'Host: x', header, '', ''), 431, 'headers_too_large')
})

test('returns 408 for a body that does not arrive in time', async () => {
  const head = ['POST /v2/slow HTTP/1.1', 'Host: x', auth, 'Content-Type: application/json', 'Content-Length: 100']
  assertProblem(await exchange(...head, '', '{"half":'), 408, 'request_timeout')
})

test('closes the connection of a rejected request whose body never ends', async () => {
  const response = await exchange('POST /v2/slow HTTP/1.1', 'Host: x', 'Content-Length: 100', '', 'half')
  assertProblem(response, 401, 'invalid_api_key')
})

test('accepts a body that arrives in time', async () => {
  const head = ['POST /v2/long HTTP/1.1', 'Host: x', auth, 'Content-Type: application/json', 'Content-Length: 2']
  assert.equal((await exchange(...head, 'Connection: close', '', '{}')).status, 200)
})

test('ignores an unknown Expect header', async () => {
  const response = await exchange('GET /healthz HTTP/1.1', 'Host: x', 'Expect: miracles', 'Connection: close', '', '')
  assert.equal(response.status, 200)
})
