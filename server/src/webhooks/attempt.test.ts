/** Attempts against receivers that misbehave, and against destinations that must never be reached. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net'
import { after, describe, test } from 'node:test'
import type { Config } from '../config.ts'
import { testConfig } from '../http/testing.ts'
import { systemClock } from '../lib/clock.ts'
import type { Resolve } from '../lib/outbound.ts'
import { openConnection } from '../lib/outbound-connection.ts'
import { type Budget, createConnectionSlot } from './attempt.ts'
import { createReceiver, type Receiver } from './testing.ts'

const BUDGET: Budget = { attempt_ms: 10_000, dns_ms: 2_000, connect_ms: 5_000 }
const MESSAGE = { id: 'evt_1', body: '{"type":"x"}' }
const SECRET = new Uint8Array(32).fill(7)
const nowhere: Resolve = () => Promise.reject(new Error('unknown'))

/** One attempt in a new connection slot. */
async function attempt(
  url: string,
  options: { resolve?: Resolve; config?: Partial<Config>; budget?: Partial<Budget>; isOperators?: boolean } = {},
) {
  const slot = slotOf(options)
  after(() => slot.close())
  return (await slot.attempt({ url, secrets: [SECRET] }, MESSAGE)).attempt
}
const slotOf = ({
  resolve = nowhere,
  config = {},
  budget = {},
  isOperators = true,
}: Parameters<typeof attempt>[1] = {}) =>
  createConnectionSlot(
    { clock: systemClock, config: { ...testConfig, ...config }, resolve, openConnection },
    isOperators,
    { ...BUDGET, ...budget },
  )

const receiver = async (respond?: Receiver['respond']) => {
  const made = await createReceiver(respond)
  made.secrets = [`whsec_${Buffer.from(SECRET).toString('base64')}`]
  return made
}

describe('an attempt', { timeout: 60_000 }, () => {
  test('sends nothing to loopback addresses for other projects than that of the operator', async () => {
    const { url, received } = await receiver()
    const isOperators = false
    const config = { allow_tenant_loopback: false }
    assert.equal((await attempt(url, { isOperators, config })).error, 'destination_not_allowed')
    assert.equal(received.length, 0)
    assert.equal((await attempt(url, { isOperators })).error, null)
  })

  test('times out when a receiver sends nothing, or one byte at a time', async () => {
    const silent = await receiver(() => {})
    const drip = await receiver((response) => {
      response.writeHead(200)
      const next = () => {
        if (!response.destroyed) response.write('x')
        systemClock.after(20, next)
      }
      next()
    })
    for (const [one, status] of [
      [silent, null],
      [drip, 200],
    ] as const) {
      const { error, response_status, duration_ms, response_body } = await attempt(one.url, {
        budget: { attempt_ms: 300 },
      })
      assert.deepEqual([error, response_status], ['timeout', status])
      assert.ok(duration_ms >= 290, String(duration_ms))
      if (status) assert.match(response_body!, /^x+$/)
    }
  })

  test('reads 64 KiB and stores 4 KiB of a long response, and replaces NUL', async () => {
    let written = 0
    const endless = await receiver((response) => {
      response.writeHead(200)
      const more = () => {
        while (!response.destroyed && response.write('é'.repeat(4_096))) written += 8_192
      }
      response.on('drain', more)
      more()
    })
    const { error, response_body } = await attempt(endless.url)
    assert.equal(error, null)
    assert.equal(response_body, 'é'.repeat(2_048))
    assert.ok(written < 20_000_000)
    const nul = await receiver((response) => response.writeHead(200, { 'x-long': 'y'.repeat(2_000) }).end('a\0b\xff'))
    const shown = await attempt(nul.url)
    assert.equal(shown.response_body, 'a\ufffdbÿ')
    assert.equal(shown.response_headers!['x-long']!.length, 500)
  })

  test('reuses the connection, and opens a new one after the receiver closed it', async () => {
    const keeps = await receiver()
    const slot = slotOf()
    for (let i = 0; i < 3; i++) {
      const { attempt: done } = await slot.attempt({ url: keeps.url, secrets: [SECRET] }, MESSAGE)
      assert.equal(done.error, null)
      assert.equal(done.connect_ms === null, i > 0)
    }
    assert.equal(keeps.connections(), 1)
    keeps.respond = (response) => response.writeHead(200, { connection: 'close' }).end()
    for (let i = 0; i < 2; i++) {
      assert.equal((await slot.attempt({ url: keeps.url, secrets: [SECRET] }, MESSAGE)).attempt.error, null)
    }
    assert.equal(keeps.connections(), 2)
    assert.equal(keeps.received.length, 5)
    slot.close()
  })

  test('opens a new connection when the IP addresses of the name change', async () => {
    const one = await receiver()
    const { port } = new URL(one.url)
    const lists = [['127.0.0.1'], ['127.0.0.1'], ['127.0.0.1', '127.0.0.2'], ['8.8.8.8']]
    const slot = slotOf({ resolve: async () => lists.shift()! })
    const target = { url: `http://name.test:${port}/`, secrets: [SECRET] }
    for (const error of [null, null, null, 'destination_not_allowed']) {
      assert.equal((await slot.attempt(target, MESSAGE)).attempt.error, error)
    }
    assert.equal(one.connections(), 2)
    slot.close()
  })

  test('returns the error of each phase of the connection; throws nothing', async () => {
    const plain = await receiver()
    const { port } = new URL(plain.url)
    const mute = createTcpServer(() => {}).listen(0, '127.0.0.1')
    await once(mute, 'listening')
    after(() => mute.close())
    const sockets: Socket[] = []
    mute.on('connection', (socket) => sockets.push(socket))
    after(() => sockets.forEach((socket) => void socket.destroy()))
    const mutePort = (mute.address() as AddressInfo).port
    for (const [url, error, budget] of [
      ['http://unknown.test/', 'name_not_resolved', {}],
      [`https://127.0.0.1:${port}/`, 'tls_failed', {}],
      ['http://127.0.0.1:1025/', 'connect_failed', {}],
      [`https://127.0.0.1:${mutePort}/`, 'connect_timeout', { connect_ms: 200 }],
      ['http://slow.test/', 'name_not_resolved', { dns_ms: 50 }],
    ] as const) {
      const resolve: Resolve = (name) => (name === 'slow.test' ? new Promise(() => {}) : nowhere(name))
      const done = await attempt(url, { budget, resolve })
      assert.equal(done.error, error, url)
      assert.equal(done.response_status, null)
    }
  })
})

describe('destinations', { timeout: 60_000 }, () => {
  const literals = [
    ...['127.0.0.1', '127.1', '0x7f.1', '2130706433', '017700000001', '①②⑦.0.0.1', '0', '0.0.0.0', 'localhost'],
    ...['localhost.', 'a.localhost', '[::1]', '[::]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]', '[::127.0.0.1]'],
    ...['10.0.0.1', '172.16.0.1', '192.168.1.1', '100.64.0.1', '169.254.169.254', '198.18.0.1', '224.0.0.1'],
    ...['[64:ff9b::7f00:1]', '[64:ff9b:1::7f00:1]', '[2002:7f00:1::]', '[fd00:ec2::254]', '[fe80::1]', '[ff02::1]'],
  ]

  test('with an empty allow list, no literal, name or DNS answer leads to a special IP address', async () => {
    const canary = await receiver()
    const { port } = new URL(canary.url)
    const config = { webhook_allow: [] }
    const refused = async (url: string, resolve?: Resolve) => {
      const { error } = await attempt(url, { config, ...(resolve && { resolve }) })
      assert.equal(error, 'destination_not_allowed', url)
    }
    for (const literal of literals) {
      await refused(`http://${literal}:${port}/hook`)
      await refused(`https://${literal}:${port}/hook`)
    }
    // The resolver returns the IP addresses of a CNAME to an internal name.
    for (const list of [
      ['127.0.0.1'],
      ['93.184.216.34', '127.0.0.1'],
      ['93.184.216.34', '::1'],
      ['::ffff:127.0.0.1'],
      ['10.0.0.1'],
    ]) {
      await refused(`https://name.test:${port}/hook`, async () => list)
    }
    assert.equal(canary.connections(), 0)
  })

  test('refuses a name that first resolves to an allowed IP address and then to a special one', async () => {
    const canary = await receiver()
    const { port } = new URL(canary.url)
    const resolved: string[] = []
    const answers = [['127.0.0.2'], ['127.0.0.1']]
    const resolve: Resolve = async (name) => {
      resolved.push(name)
      return answers.shift()!
    }
    // Only the first address is allowed, and nothing listens on it.
    const slot = slotOf({ resolve, config: { webhook_allow: ['127.0.0.2'] } })
    const target = { url: `http://rebind.test:${port}/hook`, secrets: [SECRET] }
    assert.equal((await slot.attempt(target, MESSAGE)).attempt.error, 'connect_failed')
    assert.equal((await slot.attempt(target, MESSAGE)).attempt.error, 'destination_not_allowed')
    assert.deepEqual([resolved.length, canary.connections()], [2, 0])
    slot.close()
  })

  test('allows http only to IP addresses that the operator allows', async () => {
    const resolve: Resolve = async () => ['93.184.216.34']
    const quick = { budget: { connect_ms: 50, attempt_ms: 50 } }
    assert.equal((await attempt('http://public.test/', { resolve, ...quick })).error, 'destination_not_allowed')
    assert.equal((await attempt('http://93.184.216.34/', quick)).error, 'destination_not_allowed')
    const own = await receiver()
    assert.equal((await attempt(own.url)).error, null)
  })

  test('records a redirect and does not follow it', async () => {
    const canary = await receiver()
    for (const location of ['http://169.254.169.254/latest/', canary.url]) {
      const from = await receiver((response) => response.writeHead(307, { location }).end())
      const { error, response_status } = await attempt(from.url)
      assert.deepEqual([error, response_status], ['redirect', 307])
    }
    assert.equal(canary.connections(), 0)
  })
})

describe("the operator's proxy", { timeout: 60_000 }, () => {
  test('requests use CONNECT to the checked IP address; a refusal of the proxy is a failure', async () => {
    const own = await receiver()
    const { port } = new URL(own.url)
    const targets: string[] = []
    let isOpen = true
    const proxy = createServer().listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    after(() => proxy.close())
    proxy.on('connect', (request, socket: Socket, head) => {
      targets.push(request.url!)
      socket.on('error', () => {})
      if (!isOpen) return void socket.end('HTTP/1.1 403 Forbidden\r\n\r\n')
      const to = connect({ host: '127.0.0.1', port: Number(port) }, () => {
        socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
        to.write(head)
        socket.pipe(to).pipe(socket)
      })
      to.on('error', () => {})
    })
    const webhook_proxy = `127.0.0.1:${(proxy.address() as AddressInfo).port}`
    const options = { config: { webhook_proxy }, resolve: async () => ['127.0.0.1'] }
    assert.equal((await attempt(`http://name.test:${port}/hook`, options)).error, null)
    assert.deepEqual(targets, [`127.0.0.1:${port}`])
    assert.equal(own.received[0]!.headers.host, `name.test:${port}`)
    isOpen = false
    assert.equal((await attempt(`http://name.test:${port}/hook`, options)).error, 'connect_failed')
    assert.equal((await attempt('http://10.0.0.1/', options)).error, 'destination_not_allowed')
    assert.equal(targets.length, 2)
  })
})
