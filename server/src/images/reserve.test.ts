/** Bytes of images are reserved before they are written: real uploads and real imports, with little space or a quota. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { type Call, caller, testConfig } from '../http/testing.ts'
import { createWorld, type World } from '../instances/testing-world.ts'
import { usedBytes } from '../lib/files.ts'
import { until } from '../testing/until.ts'
import { releaseInterruptedUploads } from './store.ts'
import { sharedClusters } from './testing-qcow2.ts'

const MIB = 2 ** 20
const RESERVE = 512 * MIB
const BINARY = { 'content-type': 'application/octet-stream' }
const data_dir = mkdtempSync(join(tmpdir(), 'cn-bytes-'))
let space = Number.MAX_SAFE_INTEGER
let world: World
let call: Call
let origin: string
before(async () => {
  const config = { ...testConfig, data_dir, image_max_bytes: 256 * MIB }
  world = await createWorld({ deps: { config, imageSpaceBytes: () => space } })
  call = world.call
  origin = await world.app.listen({ port: 0, host: '127.0.0.1' })
})
after(async () => {
  await world?.stop()
  rmSync(data_dir, { recursive: true })
})
beforeEach(async () => {
  space = Number.MAX_SAFE_INTEGER
  await setQuota({})
})

const setQuota = (quota: object) =>
  world.owner`update environment_heads set quota = ${world.owner.json(quota as never)}
    where environment_id = ${world.live.principal.environment_id}`
const quotaOf = async (name: string, by = call) => {
  const { body } = await by('GET', '/v2/limits')
  return body.quotas.find((each: { name: string }) => each.name === name)
}
const used = async (name: string) => (await quotaOf(name)).used as number
let made = 0
const waiting = async (by = call) =>
  (await by('POST', '/v2/images', { name: `up-${made++}`, source: 'upload' })).body.id
const put = (id: string, content: Buffer, by = call) => by('PUT', `/v2/images/${id}/content`, content, BINARY)
const status = async (id: string, wanted: string) => {
  const get = async () => (await call('GET', `/v2/images/${id}`)).body
  await until(`${id} is ${wanted}`, async () => {
    const body = await get()
    assert.ok(body.status === wanted || body.status === 'importing', JSON.stringify(body.error))
    return body.status === wanted
  })
  return get()
}
const remove = async (id: string) => {
  await call('DELETE', `/v2/images/${id}`)
  await until('the image is purged', async () => (await world.owner`select from images where id = ${id}`).count === 0)
}

test('an image counts from its creation, and its bytes until its files are removed', async () => {
  const before = [await used('images'), await used('image_bytes')]
  const id = await waiting()
  assert.equal(await used('images'), before[0]! + 1)
  assert.equal((await put(id, sharedClusters(16))).status, 202)
  await status(id, 'available')
  const occupied = usedBytes(join(data_dir, 'images', id))
  assert.equal(await used('image_bytes'), before[1]! + occupied)
  await remove(id)
  assert.deepEqual([await used('images'), await used('image_bytes')], before)
  assert.deepEqual(readdirSync(join(data_dir, 'uploads')), [])
})

test('returns 409 beyond the quota of images, and for an upload beyond the quota of bytes', async () => {
  const id = await waiting()
  await setQuota({ images: await used('images'), image_bytes: MIB })
  const { status, body } = await call('POST', '/v2/images', { name: 'more', source: 'upload' })
  assert.deepEqual([status, body.code, body.scope, body.resource], [409, 'capacity_exhausted', 'quota', 'images'])
  assert.match(body.detail, /Delete an image/)
  const refused = await put(id, Buffer.alloc(MIB + 1))
  assert.deepEqual([refused.status, refused.body.resource], [409, 'image_bytes'])
  assert.equal(await used('image_bytes'), 0)
  assert.ok(!readdirSync(join(data_dir, 'uploads')).some((name) => name.includes(id)))
  await remove(id)
})

test('returns 409 for an upload that the disk of the host cannot hold, before it is sent', async () => {
  const id = await waiting()
  space = RESERVE + 100 * MIB
  const length = 101 * MIB
  const response = await begin(id, `content-length: ${length}\r\n`).answer()
  assert.match(response, /^HTTP\/1.1 409 /)
  assert.match(response, /"scope":"host".*"retryable":true/)
  assert.match(response, /100 MiB left for images, and 101 MiB more are needed/)
  await remove(id)
})

test('an upload that is held open reserves its bytes: another one is refused, and other requests are served', async () => {
  const [id, other] = [await waiting(), await waiting()]
  space = RESERVE + 100 * MIB
  const open = begin(id, `content-length: ${60 * MIB}\r\n`)
  await until('it is reserved', async () => (await used('image_bytes')) === 60 * MIB)
  const refused = await begin(other, `content-length: ${60 * MIB}\r\n`).answer()
  assert.match(refused, /^HTTP\/1.1 409 .*40 MiB left/s)
  assert.equal((await call('GET', '/v2/images')).status, 200)
  open.socket.destroy()
  await until('it is released', async () => (await used('image_bytes')) === 0)
  assert.equal((await put(other, sharedClusters(4))).status, 202)
  await status(other, 'available')
  for (const each of [id, other]) await remove(each)
})

test('a body without Content-Length is reserved part by part, and ends where the space ends', async () => {
  const id = await waiting()
  space = RESERVE + 65 * MIB
  const upload = begin(id, 'transfer-encoding: chunked\r\n')
  const chunk = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(MIB), Buffer.from('\r\n')])
  for (let i = 0; i < 66; i++) upload.socket.write(chunk)
  assert.match(await upload.answer(), /^HTTP\/1.1 409 /)
  await until('it is released', async () => (await used('image_bytes')) === 0)
  await remove(id)
})

test('an image whose clusters share their data is imported within the quota or not at all', async () => {
  const small = sharedClusters(1024)
  assert.ok(small.length < MIB)
  await setQuota({ image_bytes: 10 * MIB })
  const id = await waiting()
  assert.equal((await put(id, small)).status, 202)
  const { error } = await status(id, 'failed')
  assert.equal(error.code, 'image_quota_exceeded')
  assert.match(error.message, /quota of the project is 10485760 image_bytes/)
  assert.equal(await used('image_bytes'), 0)
  for (const folder of ['images', 'imports'])
    assert.ok(!existsSync(join(data_dir, folder, id)), 'nothing is left on the disk')

  await setQuota({ image_bytes: 80 * MIB })
  assert.equal((await put(id, small)).status, 202)
  await status(id, 'available')
  const occupied = await used('image_bytes')
  assert.ok(occupied > 60 * MIB && occupied <= 80 * MIB, `${occupied}`)
  await remove(id)
})

test('an import that the disk of the host cannot hold fails and says so', async () => {
  space = RESERVE + 10 * MIB
  const id = await waiting()
  assert.equal((await put(id, sharedClusters(1024))).status, 202)
  const { error } = await status(id, 'failed')
  assert.equal(error.code, 'image_disk_full')
  assert.match(error.message, /10 MiB left for images, and \d+ MiB more are needed/)
  await remove(id)
})

test('an upload in the test environment keeps no bytes', async () => {
  space = 0
  const sandbox = caller(world.app, world.test.key)
  const id = await waiting(sandbox)
  const { status: code, body } = await put(id, Buffer.alloc(10 * MIB), sandbox)
  assert.deepEqual([code, body.status], [202, 'available'])
  assert.ok(!readdirSync(join(data_dir, 'uploads')).some((name) => name.includes(id)))
  assert.deepEqual([(await quotaOf('images', sandbox)).used, (await quotaOf('image_bytes', sandbox)).used], [1, 0])
  const large = await waiting(sandbox)
  assert.equal((await put(large, Buffer.alloc(257 * MIB), sandbox)).status, 413)
})

test('the next start releases what an interrupted upload has reserved, and nothing else', async () => {
  const [kept, interrupted] = [await waiting(), await waiting()]
  await put(kept, sharedClusters(4))
  await status(kept, 'available')
  const before = await used('image_bytes')
  const { environment_id } = world.live.principal
  await world.owner`update images set reserved_bytes = 1000 where id = ${interrupted}`
  await world.owner`update environment_heads set used_image_bytes = used_image_bytes + 1000
    where environment_id = ${environment_id}`
  for (const _ of [1, 2]) await world.owner.begin((tx) => releaseInterruptedUploads(tx))
  assert.equal(await used('image_bytes'), before)
  assert.ok(before > 0)
  for (const id of [kept, interrupted]) await remove(id)
  assert.equal(await used('image_bytes'), 0)
})

/** Begins an upload on a connection of its own; its body is up to the test. */
function begin(id: string, header: string): { socket: Socket; answer(): Promise<string> } {
  const { hostname, port } = new URL(origin)
  const socket = connect(Number(port), hostname)
  const key = `authorization: Bearer ${world.live.key}\r\n`
  socket.write(
    `PUT /v2/images/${id}/content HTTP/1.1\r\nhost: x\r\n${key}content-type: application/octet-stream\r\n${header}\r\n`,
  )
  let text = ''
  socket.on('data', (chunk) => (text += chunk)).on('error', () => {})
  return {
    socket,
    async answer() {
      await until('a response', async () => /\r\n\r\n.*\}$/s.test(text))
      socket.destroy()
      return text
    },
  }
}
