import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import type { OutboundPolicy } from './outbound.ts'
import { type OutboundRequest, requestOutbound } from './outbound-request.ts'

// 127.0.0.2 stands for the public internet, 127.0.0.1 for what must not be reached: a canary counts its visitors there.
const policy = (resolve?: OutboundPolicy['resolve']): OutboundPolicy => ({
  allowHttp: true,
  allowedAddresses: ['127.0.0.2/32'],
  dnsTimeoutMs: 2000,
  resolve,
})
const request = (more: Partial<OutboundRequest> = {}): OutboundRequest => ({
  signal: AbortSignal.timeout(10_000),
  connectTimeoutMs: 5000,
  ...more,
})
const notAllowed = { message: 'destination not allowed', code: 'destination_not_allowed' }

let answer: RequestListener = (_request, response) => response.end('hello')
const site = createServer((request, response) => answer(request, response))
let visitors = 0
const canary = createTcpServer((socket) => {
  visitors++
  socket.destroy()
})
let port = 0

async function listen(server: Server, host: string, at = 0): Promise<number> {
  await once(server.listen(at, host), 'listening')
  return (server.address() as AddressInfo).port
}

before(async () => {
  port = await listen(site, '127.0.0.2')
  await listen(canary, '127.0.0.1', port)
})
after(() => {
  assert.equal(visitors, 0, 'something reached the canary')
  site.close()
  canary.close()
})

async function read(url: string, given = policy(), more: Partial<OutboundRequest> = {}) {
  const response = await requestOutbound(url, given, request(more))
  const chunks = await response.body.toArray()
  response.close()
  return { status: response.status, url: response.url.href, text: Buffer.concat(chunks).toString() }
}

test('reads from an allowed address, by literal and by name', async () => {
  answer = (request, response) => response.end(`${request.headers.host}${request.url}`)
  assert.equal((await read(`http://127.0.0.2:${port}/a?b=c`)).text, `127.0.0.2:${port}/a?b=c`)
  const named = await read(
    `http://site.test:${port}/`,
    policy(async () => ['127.0.0.2']),
  )
  assert.equal(named.text, `site.test:${port}/`)
})

test('connects to no notation of a loopback address', async () => {
  const forms = ['127.0.0.1', '127.1', '0x7f.1', '2130706433', '017700000001', '①②⑦.0.0.1', '[::ffff:127.0.0.1]', '0']
  for (const form of [...forms, 'localhost', 'localhost.', '[::1]', '[::127.0.0.1]']) {
    await assert.rejects(read(`http://${form}:${port}/`), notAllowed, form)
  }
  assert.equal(visitors, 0)
})

test('resolves a name once and connects to the checked address when the name changes', async () => {
  answer = (_request, response) => response.end('the first address')
  let asked = 0
  const rebinding = policy(async () => (asked++ === 0 ? ['127.0.0.2'] : ['127.0.0.1']))
  assert.equal((await read(`http://rebind.test:${port}/`, rebinding)).text, 'the first address')
  assert.equal(asked, 1)
  await assert.rejects(read(`http://rebind.test:${port}/`, rebinding), notAllowed)
  assert.equal(visitors, 0)
})

test('resolves the name of a redirect again and rejects a private address', async () => {
  answer = (_request, response) => response.writeHead(302, { location: '/again' }).end()
  let asked = 0
  const rebinding = policy(async () => (asked++ === 0 ? ['127.0.0.2'] : ['127.0.0.1']))
  await assert.rejects(read(`http://rebind.test:${port}/`, rebinding, { maxRedirects: 5 }), notAllowed)
  assert.equal(asked, 2)
  assert.equal(visitors, 0)
})

test('rejects a name with allowed and forbidden addresses before it connects', async () => {
  for (const addresses of [
    ['127.0.0.2', '127.0.0.1'],
    ['8.8.8.8', '::1'],
    ['127.0.0.1', '127.0.0.2'],
  ]) {
    await assert.rejects(
      read(
        `http://mixed.test:${port}/`,
        policy(async () => addresses),
      ),
      notAllowed,
    )
  }
  assert.equal(visitors, 0)
})

test('follows at most five redirects and checks each of them', async () => {
  answer = (request, response) => {
    const left = Number(request.url!.slice(1))
    if (left === 0) response.end('there')
    else response.writeHead(302, { location: `/${left - 1}` }).end()
  }
  const followed = await read(`http://127.0.0.2:${port}/5`, policy(), { maxRedirects: 5 })
  assert.deepEqual(followed, { status: 200, url: `http://127.0.0.2:${port}/0`, text: 'there' })
  await assert.rejects(read(`http://127.0.0.2:${port}/6`, policy(), { maxRedirects: 5 }), {
    code: 'too_many_redirects',
  })
  assert.equal((await read(`http://127.0.0.2:${port}/5`)).status, 302)
  assert.equal((await read(`http://127.0.0.2:${port}/5`, policy(), { method: 'POST', maxRedirects: 5 })).status, 302)

  for (const location of [
    'http://169.254.169.254/',
    `http://127.0.0.1:${port}/`,
    `http://localhost:${port}/`,
    'file:///',
  ]) {
    answer = (_request, response) => response.writeHead(307, { location }).end()
    await assert.rejects(read(`http://127.0.0.2:${port}/`, policy(), { maxRedirects: 5 }), notAllowed, location)
  }
  assert.equal(visitors, 0)
})

test('the signal aborts connection, headers and body', async () => {
  const silent = createTcpServer(() => connecting.abort(new Error('enough')))
  const connecting = new AbortController()
  const url = `https://127.0.0.2:${await listen(silent, '127.0.0.2')}/`
  await assert.rejects(read(url, policy(), { signal: connecting.signal, connectTimeoutMs: 1e9 }), /enough/)
  silent.close()
  for (const begin of [false, true]) {
    const controller = new AbortController()
    answer = (_request, response) => {
      if (begin) response.write('x')
      controller.abort(new Error('enough'))
    }
    await assert.rejects(read(`http://127.0.0.2:${port}/`, policy(), { signal: controller.signal }), /enough|abort/i)
  }
})

test('uses TLS with the name, connects to the checked address, and follows no redirect to http', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'outbound-'))
  const file = (name: string) => join(folder, name)
  execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
      ...['-subj', '/CN=secure.test', '-addext', 'subjectAltName=DNS:secure.test'],
      ...['-keyout', file('key.pem'), '-out', file('cert.pem')],
    ],
    { stdio: 'ignore' },
  )
  const cert = readFileSync(file('cert.pem'), 'utf8')
  const trusted = getCACertificates('default')
  setDefaultCACertificates([...trusted, cert])
  let servername: unknown = null
  const server = createTlsServer({ cert, key: readFileSync(file('key.pem')) }, (request, response) => {
    servername = (request.socket as unknown as { servername: unknown }).servername
    response.writeHead(302, { location: `http://plain.test:${port}/` }).end()
  })
  try {
    const tlsPort = await listen(server, '127.0.0.2')
    const named = policy(async () => ['127.0.0.2'])
    assert.equal((await read(`https://secure.test:${tlsPort}/`, named)).status, 302)
    assert.equal(servername, 'secure.test')
    await assert.rejects(read(`https://secure.test:${tlsPort}/`, named, { maxRedirects: 5 }), notAllowed)
    await assert.rejects(read(`https://other.test:${tlsPort}/`, named), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' })
  } finally {
    setDefaultCACertificates(trusted)
    server.close()
    rmSync(folder, { recursive: true })
  }
})
