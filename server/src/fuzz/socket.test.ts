/** Sends invalid bytes over a TCP connection. The server must respond in order or close the connection. */
import assert from 'node:assert/strict'
import { type AddressInfo, connect } from 'node:net'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { createApp } from '../app.ts'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { createTestApp } from '../http/testing.ts'
import { createLog } from '../lib/log.ts'
import { createOracle } from './oracle.ts'

const seed = Number(process.env.FUZZ_SEED ?? 20_250_115)
const numRuns = Math.max(500, Math.floor(Number(process.env.FUZZ_REQUESTS ?? 0) / 100))

const lines: string[] = []
const destination = { write: (text: string) => void lines.push(text) }
const { app: base, deps, live } = await createTestApp()
const app = await createApp(
  { ...deps, log: createLog({ level: 'info', pretty: false, destination }) },
  { ready: async () => [], timeouts: { headers_ms: 1_000, body_ms: 200, keep_alive_ms: 100, check_ms: 50 } },
)
await app.listen({ port: 0, host: '127.0.0.1' })
after(() => Promise.all([app.close(), base.close()]))
const oracle = createOracle(app.swagger() as unknown as OpenapiDocument)

/** Sends the bytes in two parts and returns the received bytes. */
function exchange(bytes: Buffer, cut: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
    const chunks: Uint8Array[] = []
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error('no response, and the connection is still open'))
    }, 10_000)
    socket.on('data', (chunk) => chunks.push(chunk as Uint8Array)).on('error', () => {})
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(Buffer.concat(chunks))
    })
    socket.write(bytes.subarray(0, cut))
    setImmediate(() => socket.write(bytes.subarray(cut)))
  })
}

type Raw = { status: number; headers: Record<string, string>; body: string }

/** Parses the responses. Throws for bytes that are not HTTP. */
function parseResponses(bytes: Buffer, method: string): Raw[] {
  const responses: Raw[] = []
  let text = bytes.toString('latin1')
  while (text !== '') {
    const end = text.indexOf('\r\n\r\n')
    const [first, ...fields] = text.slice(0, end).split('\r\n')
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first!)?.[1])
    assert.ok(end > 0 && status >= 100, `not HTTP: ${JSON.stringify(text.slice(0, 200))}`)
    const headers = Object.fromEntries(
      fields.map((line) => {
        const [, name, value] =
          /^([A-Za-z-]+): (.*)$/.exec(line) ?? assert.fail(`not a header: ${JSON.stringify(line)}`)
        return [name!.toLowerCase(), value!]
      }),
    )
    // A response to HEAD has a content-length without a body, unless the method could not be parsed.
    const isHead = method === 'HEAD' && responses.length === 0 && text[end + 4] !== '{'
    const length = isHead ? 0 : Number(headers['content-length'] ?? 0)
    const body = Buffer.from(text.slice(end + 4, end + 4 + length), 'latin1').toString()
    text = text.slice(end + 4 + length)
    if (status >= 200) responses.push({ status, headers, body })
  }
  return responses
}

const auth = `Authorization: Bearer ${live.key}`
const targets = [
  '/healthz',
  '/v2/plans',
  '/v2/ssh_keys',
  '/',
  '*',
  '//healthz',
  '/../healthz',
  '/v2/../healthz',
  '/%2e%2e/etc',
  '/v2/plans?',
  '/v2/plans?%',
  '/v2/plans?a\u0001b',
  '/v2/pl\u00e4ns',
  '/v2/plans#x',
  'http://evil.example/v2/plans',
  '/v2/ssh_keys/%00',
  `/${'x'.repeat(9_000)}`,
  '/v2/plans?__proto__=1',
  '/v2/plans?limit=1;limit=2',
  '\\healthz',
]
const methods = [
  'GET',
  'POST',
  'PUT',
  'DELETE',
  'HEAD',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'PROPFIND',
  'get',
  'GE T',
  'BREW',
  'G\u0000T',
  'X'.repeat(500),
]
const versions = ['HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.0', 'HTTP/1.2', 'HTTP/2.0', 'http/1.1', 'HTTP/1', '']
const ends = ['\r\n', '\r\n', '\r\n', '\n', '\r', '\r\r\n']
const fields = [
  'X-Request-ID: \u001b[31mred',
  'X-Request-ID: a\r\n folded',
  'X-Request-ID: good-1',
  'X-Request-ID: one\r\nX-Request-ID: two',
  `X-Request-ID: ${'x'.repeat(8_192)}`,
  'X-Request-ID: a\u0000b',
  'X-Request-ID : spaced',
  'X-Request-ID: \u00fc\u009b',
  `X-Large: ${'x'.repeat(17_000)}`,
  Array.from({ length: 3_000 }, (_, i) => `X${i}: 1`).join('\r\n'),
  'no colon',
  ': no name',
  '\u0000: x',
  'Host: a\r\nHost: b',
  'Host: ../../etc',
  'Content-Length: -1',
  'Content-Length: 5',
  'Content-Length: 5\r\nContent-Length: 6',
  'Content-Length: 99999999999999999999',
  'Content-Length: 2147483648',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: chunked\r\nContent-Length: 5',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding: xchunked',
  'Expect: 100-continue',
  'Expect: miracles',
  'Upgrade: websocket\r\nConnection: Upgrade',
  'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings',
  'Connection: close',
  'Connection: keep-alive, X-Request-ID',
  'Content-Type: application/json',
  'Content-Type: \u0001',
  'Accept-Encoding: gzip',
  'Trailer: X-Request-ID',
  'Authorization: Bearer \u0000',
  'If-None-Match: *',
  'Cookie: a=b',
]
const bodies = [
  '',
  '{}',
  '{"name": 1}',
  '5\r\n{"a":\r\n0\r\n\r\n',
  'zz\r\n',
  'ffffffffffffffff\r\n',
  '0\r\nX-Request-ID: trailer\r\n\r\n',
  'GET /v2/ssh_keys HTTP/1.1\r\nHost: x\r\n\r\n',
  '\u0016\u0003\u0001\u0002\u0000',
  'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
]

const request = fc
  .record({
    method: fc.constantFrom(...methods),
    target: fc.constantFrom(...targets),
    version: fc.constantFrom(...versions),
    end: fc.constantFrom(...ends),
    fields: fc.array(fc.constantFrom(...fields, auth, auth), { maxLength: 4 }),
    host: fc.constantFrom('Host: x', 'Host: x', 'Host: x', null),
    body: fc.constantFrom(...bodies),
    cut: fc.nat(200),
  })
  .map(({ method, target, version, end, fields, host, body, cut }) => {
    const head = [`${method} ${target} ${version}`, ...(host ? [host] : []), ...fields].join(end)
    return { method, target, bytes: Buffer.from(`${head}${end}${end}${body}`, 'latin1'), cut }
  })

test(`${numRuns} connections from the seed ${seed}`, { timeout: 24 * 3_600_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(request, async ({ method, bytes, cut }) => {
      const responses = parseResponses(await exchange(bytes, cut), method)
      assert.ok(responses.length > 0, 'no response')
      for (const { status, headers, body } of responses) {
        assert.ok(status < 500, `${status} ${body}`)
        assert.match(headers['x-request-id'] ?? '', /^[A-Za-z0-9._-]{1,128}$/, String(status))
        assert.equal(headers['x-injected'], undefined)
        if (status < 400 || body === '') continue
        assert.match(headers['content-type']!, /^application\/problem\+json/)
        const problem = JSON.parse(body)
        assert.deepEqual([problem.status, problem.request_id], [status, headers['x-request-id']])
        // The problem must match the document.
        oracle.general(
          { method: 'NONE', url: '/nowhere', headers: { 'x-request-id': headers['x-request-id']! } },
          { status, headers, body: problem },
        )
      }
    }),
    { seed, numRuns },
  )
})

test('each log record is one line of JSON without control characters', () => {
  assert.ok(lines.length > 0)
  for (const line of lines) {
    assert.ok(line.endsWith('\n'))
    assert.doesNotMatch(line.slice(0, -1), /\p{Cc}/u)
    assert.ok(JSON.parse(line).level < 50, line)
  }
})
