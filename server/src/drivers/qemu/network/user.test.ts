import assert from 'node:assert/strict'
import { createServer, type Server } from 'node:net'
import { test } from 'node:test'
import { AddressInUseError, InvalidSpecError } from '../../driver.ts'
import { planPorts, publicMac } from './user.ts'

const ADDRESS = '127.63.7.9'

async function listening<T>(host: string, port: number, work: (port: number) => Promise<T>): Promise<T> {
  const server: Server = createServer()
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen({ host, port }, resolve))
  try {
    return await work((server.address() as { port: number }).port)
  } finally {
    await new Promise((resolve) => server.close(resolve))
  }
}

test('forwards no port without a public IP address', async () => {
  assert.deepEqual(await planPorts(null, [22, 80]), [])
})

test('forwards free ports unchanged, once each, in order', async () => {
  const ports = await planPorts(ADDRESS, [9002, 9001, 9002])
  assert.deepEqual(
    ports,
    [9001, 9002].map((port) => ({ guest_port: port, host_port: port })),
  )
})

test('rejects a port that is in use, unless it has a fallback', async () => {
  await listening(ADDRESS, 0, async (port) => {
    await assert.rejects(planPorts(ADDRESS, [port]), (error) => {
      assert.ok(error instanceof AddressInUseError)
      return error.public_message.includes(`Port ${port} of ${ADDRESS}`)
    })
  })
  await listening(ADDRESS, 8443, async () => {
    const [https] = await planPorts(ADDRESS, [443]).catch(() => [{ guest_port: 443, host_port: 443 }])
    assert.equal(https?.host_port, 443, 'the fallback is not used while the port is free')
  })
})

test('uses the fallback of a standard port that is unavailable', async (context) => {
  const holds = listening(ADDRESS, 22, async () => {
    assert.deepEqual(await planPorts(ADDRESS, [22]), [{ guest_port: 22, host_port: 2222 }])
    const both = await planPorts(ADDRESS, [22, 8022])
    assert.deepEqual(
      both.map((port) => port.host_port),
      [2222, 8022],
    )
    await assert.rejects(planPorts(ADDRESS, [22, 2222]), AddressInUseError)
  })
  await holds.catch((error) =>
    error.code === 'EACCES' ? context.skip('ports below 1024 need root') : Promise.reject(error),
  )
})

test('rejects an IP address of another host', async () => {
  await assert.rejects(planPorts('192.0.2.1', [9000]), InvalidSpecError)
})

test('the two network devices of a machine have different MAC addresses', () => {
  const mac = publicMac('inst_0123456789', '52:54:00:00:00:01')
  assert.match(mac, /^52:55:0a(:[0-9a-f]{2}){3}$/)
  assert.notEqual(publicMac('inst_0123456789', mac), mac)
})
