import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { connectionLimits, limitConnections } from './connections.ts'

test('the limits leave descriptors for everything else, and one address cannot use them all', () => {
  assert.deepEqual(connectionLimits(256), { total: 56, per_address: 28 })
  assert.deepEqual(connectionLimits(1_024), { total: 614, per_address: 307 })
  fc.assert(
    fc.property(fc.integer({ min: 64, max: 1_048_576 }), (descriptors) => {
      const { total, per_address } = connectionLimits(descriptors)
      assert.ok(per_address <= total && total >= 16)
      assert.ok(descriptors < 216 || total <= descriptors - 200)
    }),
  )
})

test('closes connections beyond the limits unread, and accepts others once some have closed', async () => {
  const server = createServer((_request, response) => void response.end('ok'))
  const refused: string[] = []
  const isProxy = (address: string) => address === '127.0.0.9'
  limitConnections(server, { total: 5, per_address: 2 }, isProxy, (address) => void refused.push(address))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => server.close())
  const { port } = server.address() as AddressInfo

  /** Opens a connection from this address and sends a request; null if it is closed without a response. */
  async function open(localAddress: string): Promise<Socket | null> {
    const socket = connect({ port, host: '127.0.0.1', localAddress })
    socket.on('error', () => {})
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    const responded = await Promise.race([
      once(socket, 'data').then(() => true),
      once(socket, 'close').then(() => false),
    ])
    return responded ? socket : null
  }

  const first = await open('127.0.0.1')
  assert.ok(first && (await open('127.0.0.1')))
  assert.equal(await open('127.0.0.1'), null)
  for (let i = 0; i < 3; i++) assert.ok(await open('127.0.0.9'), 'a proxy has no limit of its own')
  assert.equal(await open('127.0.0.2'), null, 'the limit of all addresses')
  assert.deepEqual(refused, ['127.0.0.1', '127.0.0.2'])
  first.destroy()
  await once(first, 'close')
  let again: Socket | null = null
  for (let i = 0; i < 100 && !again; i++) again = await open('127.0.0.1')
  assert.ok(again)
  server.closeAllConnections()
})
