import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { withOutbox } from '../events/outbox.ts'
import { caller, createTestApp, createTestTenant, testConfig } from '../http/testing.ts'
import { CATALOGUE } from './catalog.ts'
import { jobOf } from './job.ts'
import type { ImageRow } from './row.ts'
import { ensureImport, findImage, loadImage, purgeImage, recordImport, syncCatalogue } from './store.ts'
import { removeIncomplete } from './upload.ts'

const data_dir = mkdtempSync(join(tmpdir(), 'cloudnexus-images-'))
const config = {
  ...testConfig,
  data_dir,
  image_max_bytes: 100_000,
  image_allow: ['127.0.0.0/8'],
  allow_tenant_loopback: false,
}
const { app, deps, owner, call, live, test: sandbox } = await createTestApp(() => ({ config }))
after(async () => {
  await app.close()
  rmSync(data_dir, { recursive: true })
})
const { environment_id } = live.principal
const sql = deps.sql.as(environment_id)
await owner`insert into environments (id, mode) values ('env_system', 'system')`
await syncCatalogue(owner, CATALOGUE)

type Download = { allowed_addresses: string[] }
const sha256 = 'A'.repeat(64)
const fromUrl = (name: string, more: object = {}) => ({
  name,
  url: 'https://images.example.com/a.qcow2?sig=secret',
  sha256,
  ...more,
})
const ensure = (id: string) => withOutbox(deps, live.principal, (tx, outbox) => ensureImport(tx, outbox, id))
const row = async (id: string) => (await loadImage(sql, id))!
const isWoken = async (id: string) => {
  const [work] = await owner<
    { environment_id: string }[]
  >`select environment_id from work where kind = 'image' and id = ${id}`
  return work?.environment_id ?? null
}
const observe = (image: ImageRow, observed: Partial<Parameters<typeof recordImport>[2]>) =>
  deps.sql
    .as(image.environment_id ?? 'env_system')
    .begin((tx) =>
      recordImport(tx, image, { state: 'importing', progress: null, error: null, manifest: null, ...observed }),
    )
const failure = { code: 'image_checksum_mismatch', message: 'The checksum does not match.' }
const manifest = { virtual_size_bytes: 1000, boot: null, seed: 'nocloud' as const }
const upload = (id: string, content: Buffer | string, headers: Record<string, string> = {}, as = call) =>
  as('PUT', `/v2/images/${id}/content`, content, { 'content-type': 'application/octet-stream', ...headers })

describe('the catalogue', () => {
  test('is available to every environment, by ID and name, before it is on the host', async () => {
    for (const key of [live.key, sandbox.key]) {
      const { body } = await caller(app, key)('GET', '/v2/images?sort=created_at')
      assert.deepEqual(
        body.data.map(({ name }: { name: string }) => name),
        ['micro-linux', 'debian-12', 'ubuntu-22.04-lts', 'ubuntu-24.04-lts'],
      )
      for (const image of body.data) {
        assert.deepEqual(
          [image.status, image.cached, image.ready_signal, image.ssh_user],
          ['available', false, 'guest', 'root'],
        )
        assert.equal(image.is_catalog, true)
      }
    }
    const byName = await call('GET', '/v2/images/ubuntu-22.04-lts')
    assert.deepEqual(byName.body, (await call('GET', '/v2/images/img_ubuntu2204')).body)
    assert.equal((await call('GET', '/v2/images?name=debian-12')).body.data.length, 1)
  })

  test('can be synchronised again without a change to imported images', async () => {
    await observe(await row('img_debian0012'), { state: 'present', manifest })
    await syncCatalogue(owner, CATALOGUE)
    const { body } = await call('GET', '/v2/images/debian-12')
    assert.deepEqual([body.status, body.cached, body.virtual_size_bytes], ['available', true, 1000])
  })

  test('is imported once when an instance needs it, and again after a failure', async () => {
    const id = 'img_ubuntu2404'
    await ensure(id)
    await ensure(id)
    assert.equal((await row(id)).wanted_import, 1)
    assert.equal(await isWoken(id), 'env_system')
    assert.equal((await call('GET', `/v2/images/${id}`)).body.progress.phase, 'waiting')
    const progress = { phase: 'downloading', percent: 40, done_bytes: 40, total_bytes: 100 }
    await observe(await row(id), { progress })
    await ensure(id)
    const importing = await call('GET', `/v2/images/${id}`)
    assert.deepEqual([importing.body.status, importing.body.progress], ['importing', progress])
    await observe(await row(id), { state: 'failed', error: failure })
    const failed = await call('GET', `/v2/images/${id}`)
    assert.deepEqual([failed.body.status, failed.body.error, failed.body.progress], ['failed', failure, null])
    await ensure(id)
    assert.equal((await row(id)).wanted_import, 2)
    assert.equal((await call('GET', `/v2/images/${id}`)).body.status, 'importing')
  })

  test('returns 409 for the deletion of a catalogue image and for a new image with its name', async () => {
    assert.equal((await call('DELETE', '/v2/images/micro-linux')).status, 409)
    const taken = await call('POST', '/v2/images', fromUrl('micro-linux'))
    assert.deepEqual([taken.status, taken.body.code], [409, 'already_exists'])
  })
})

describe('an image from a URL', () => {
  test('returns 201, requests its import and never returns its query string', async () => {
    const { status, body } = await call('POST', '/v2/images', fromUrl('mine', { description: 'My server' }))
    assert.equal(status, 201)
    assert.deepEqual(
      [body.status, body.cached, body.ready_signal, body.ssh_user],
      ['importing', false, 'process', 'root'],
    )
    assert.deepEqual(body.source, { kind: 'url', url: 'https://images.example.com/a.qcow2' })
    assert.deepEqual((await row(body.id)).source, { kind: 'url', url: fromUrl('').url, sha256: sha256.toLowerCase() })
    assert.equal(await isWoken(body.id), environment_id)
    await observe(await row(body.id), { state: 'present', manifest })
    const here = await call('GET', '/v2/images/mine')
    assert.deepEqual([here.body.status, here.body.cached, here.body.virtual_size_bytes], ['available', true, 1000])
  })

  test('returns 409 for a duplicate name, also for concurrent requests', async () => {
    const responses = await Promise.all(Array.from({ length: 5 }, () => call('POST', '/v2/images', fromUrl('race'))))
    assert.deepEqual(responses.map(({ status }) => status).sort(), [201, 409, 409, 409, 409])
  })

  test('returns 422 with all field errors', async () => {
    const missing = await call('POST', '/v2/images', { name: 'x' })
    assert.deepEqual(
      missing.body.errors.map(({ pointer }: { pointer: string }) => pointer),
      ['/url', '/sha256'],
    )
    const names = [
      '',
      'Upper',
      '-x',
      'a b',
      'a/b',
      '../x',
      'img_microlinux',
      'x'.repeat(64),
      'a,readonly=on',
      'é',
      'a\n',
    ]
    for (const name of names) assert.equal((await call('POST', '/v2/images', fromUrl(name))).status, 422, name)
    const urls = [
      'images.example.com/a',
      'ftp://images.example.com/a',
      'file:///etc/passwd',
      'json:{"driver":"raw"}',
      'nbd://127.0.0.1/x',
      'https://user:pw@images.example.com/a',
      'https://images.example.com/a#x',
      'http://169.254.169.254/latest',
      'http://[::1]/a',
      'http://10.0.0.1/a',
      'http://0x0a.1/a',
      'https://images.example.com:22/a',
      `https://images.example.com/${'a'.repeat(2048)}`,
      'https://images.example.com/\0',
    ]
    for (const url of urls) {
      const { status, body } = await call('POST', '/v2/images', fromUrl('x', { url }))
      assert.deepEqual([status, body.errors[0].pointer], [422, '/url'], url)
    }
    assert.equal((await call('POST', '/v2/images', fromUrl('x', { sha256: 'zz' }))).status, 422)
  })

  test('accepts an address in a range that the operator allows', async () => {
    assert.equal((await call('POST', '/v2/images', fromUrl('local', { url: 'http://127.0.0.1:9000/a' }))).status, 201)
  })

  test('of another project than that of the operator comes from no loopback address', async () => {
    const { live: other } = await createTestTenant(deps)
    const literal = fromUrl('loopback', { url: 'http://127.0.0.1:9000/a.qcow2' })
    const { status, body } = await caller(app, other.key)('POST', '/v2/images', literal)
    assert.deepEqual([status, body.errors[0].pointer], [422, '/url'])
    const named = fromUrl('named', { url: 'http://localhost:9000/a.qcow2' })
    const { id } = (await caller(app, other.key)('POST', '/v2/images', named)).body
    const made = (await loadImage(deps.sql.as(other.principal.environment_id), id))!
    const ranges = (isOperators: boolean) => jobOf(config, made, '', isOperators)
    assert.deepEqual((ranges(false) as Download).allowed_addresses, [])
    assert.deepEqual((ranges(true) as Download).allowed_addresses, ['127.0.0.0/8'])
  })

  test('is available immediately in a test environment, without an import', async () => {
    const { body } = await caller(app, sandbox.key)('POST', '/v2/images', fromUrl('mine'))
    assert.equal(body.status, 'available')
    assert.equal(await isWoken(body.id), null)
  })

  test('is available after its upload in a test environment', async () => {
    const asSandbox = caller(app, sandbox.key)
    const { body } = await asSandbox('POST', '/v2/images', { name: 'sent', source: 'upload' })
    assert.equal(body.status, 'importing')
    const bytes = { 'content-type': 'application/octet-stream' }
    const sent = await asSandbox('PUT', `/v2/images/${body.id}/content`, Buffer.from('disk'), bytes)
    assert.deepEqual([sent.status, sent.body.status], [202, 'available'])
    assert.equal(await isWoken(body.id), null)
  })

  test('returns 404 to another environment or project', async () => {
    const { body } = await call('GET', '/v2/images/mine')
    const other = await createTestTenant(deps)
    const othersSql = deps.sql.as(other.live.principal.environment_id)
    for (const key of [sandbox.key, other.live.key]) {
      assert.equal((await caller(app, key)('GET', `/v2/images/${body.id}`)).status, 404)
      assert.equal((await caller(app, key)('DELETE', `/v2/images/${body.id}`)).status, 404)
    }
    assert.equal(await othersSql.begin((tx) => findImage(tx, other.live.principal.environment_id, 'mine')), null)
  })
})

describe('an upload', () => {
  const waiting = async (name: string) => (await call('POST', '/v2/images', { name, source: 'upload' })).body

  test('waits for its content, and no instance can be created from it until then', async () => {
    const image = await waiting('later')
    assert.deepEqual([image.status, image.progress.phase, image.source.url], ['importing', 'waiting_for_upload', null])
    assert.equal(await isWoken(image.id), null)
    await assert.rejects(ensure(image.id), /has not been uploaded/)
  })

  test('returns 202 and passes the content to the importer', async () => {
    const image = await waiting('content')
    const bytes = Buffer.from(Array.from({ length: 90_000 }, (_, i) => i % 251))
    const received = await upload(image.id, bytes)
    assert.deepEqual([received.status, received.body.status], [202, 'importing'])
    assert.deepEqual(readFileSync(join(data_dir, 'uploads', `${image.id}.part`)), bytes)
    assert.equal((await row(image.id)).wanted_import, 1)
    assert.equal(await isWoken(image.id), environment_id)
    const again = await upload(image.id, 'other')
    assert.deepEqual([again.status, again.body.code], [409, 'conflict'])
    await observe(await row(image.id), { state: 'failed', error: failure })
    await assert.rejects(ensure(image.id), /was rejected/)
    assert.equal((await upload(image.id, bytes)).status, 202, 'rejected content can be uploaded again')
    assert.equal((await row(image.id)).wanted_import, 2)
  })

  test('compares its media type by the grammar, and returns 415 for a content encoding', async () => {
    for (const type of ['Application/Octet-Stream', 'application/octet-stream; charset=binary']) {
      const { id } = (await call('POST', '/v2/images', { name: `type-${type.length}`, source: 'upload' })).body
      assert.equal((await upload(id, 'x', { 'content-type': type })).status, 202, type)
    }
    const { id } = (await call('POST', '/v2/images', { name: 'encoded', source: 'upload' })).body
    const refused = await upload(id, 'x', { 'content-encoding': 'gzip' })
    assert.deepEqual([refused.status, refused.headers['accept-encoding']], [415, 'identity'])
    assert.equal((await upload(id, 'x', { 'content-encoding': 'Identity' })).status, 202)
    const json = await call('POST', '/v2/images', { name: 'x', source: 'upload' }, { 'content-encoding': 'br' })
    assert.equal(json.status, 415)
  })

  test('accepts one of several concurrent uploads', async () => {
    const image = await waiting('twice')
    const responses = await Promise.all(['a', 'b', 'c'].map((text) => upload(image.id, text.repeat(1000))))
    assert.deepEqual(responses.map(({ status }) => status).sort(), [202, 409, 409])
    assert.equal((await row(image.id)).wanted_import, 1)
  })

  test('returns 413 above the limit, 415 for another type, 409 if it is no upload, 404 if it is not found', async () => {
    const image = await waiting('refused')
    assert.equal((await upload(image.id, Buffer.alloc(100_001))).status, 413)
    assert.equal((await upload(image.id, '{}', { 'content-type': 'application/json' })).status, 415)
    assert.equal((await upload(image.id, 'x', { 'content-type': 'text/plain' })).status, 415)
    assert.equal((await call('PUT', `/v2/images/${image.id}/content`)).status, 415)
    assert.equal((await upload('img_microlinux', 'x')).status, 409)
    assert.equal((await upload('img_0000000000', 'x')).status, 404)
    assert.equal((await upload(image.id, 'x', {}, caller(app, sandbox.key))).status, 404)
    const left = readdirSync(join(data_dir, 'uploads')).filter(
      (name) => name.includes(image.id) || name.endsWith('.incoming'),
    )
    assert.deepEqual(left, [])
  })

  test('removes interrupted uploads at the next start', () => {
    const folder = join(data_dir, 'uploads')
    writeFileSync(join(folder, 'img_1.req_1.incoming'), 'half')
    writeFileSync(join(folder, 'img_2.part'), 'whole')
    removeIncomplete(config)
    assert.ok(!readdirSync(folder).includes('img_1.req_1.incoming'))
    assert.ok(readdirSync(folder).includes('img_2.part'))
  })
})

describe('deletion', () => {
  test('returns 204, frees the name and purges the row when the files are deleted', async () => {
    const { body } = await call('POST', '/v2/images', fromUrl('short-lived'))
    assert.equal((await call('DELETE', '/v2/images/short-lived')).status, 204)
    assert.equal((await call('GET', `/v2/images/${body.id}`)).status, 404)
    assert.equal((await call('DELETE', `/v2/images/${body.id}`)).status, 404)
    assert.equal((await call('POST', '/v2/images', fromUrl('short-lived'))).status, 201)
    assert.equal((await row(body.id)).wanted_gone, true)
    assert.equal(await isWoken(body.id), environment_id)
    assert.equal(await sql.begin((tx) => purgeImage(tx, body.id)), true)
    assert.equal(await loadImage(sql, body.id), null)
  })

  test('waits for the creation of an instance from the image', async () => {
    const { body } = await call('POST', '/v2/images', fromUrl('contended'))
    let deletion: ReturnType<typeof call> | undefined
    await sql.begin(async (tx) => {
      assert.ok(await findImage(tx, environment_id, body.id))
      deletion = call('DELETE', `/v2/images/${body.id}`)
      const [waits] = await waitUntilBlocked()
      assert.ok(waits)
    })
    assert.equal((await deletion!).status, 204)
    assert.equal(await sql.begin((tx) => findImage(tx, environment_id, body.id)), null)
  })

  async function waitUntilBlocked(): Promise<object[]> {
    for (;;) {
      const rows = await owner<object[]>`
        select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      if (rows.length > 0) return rows
    }
  }
})
