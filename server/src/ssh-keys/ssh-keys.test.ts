import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { caller, createTestApp, createTestTenant } from '../http/testing.ts'
import { findKeys } from './store.ts'

const { app, deps, call, live, test: sandbox } = await createTestApp()
after(() => app.close())

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJAvUz5v+WDvi0MkJzWKBLmY1XlFT1gqZp9Q9eS1oezI me@laptop'

test('creates, returns, lists, updates and deletes a key', async () => {
  const created = await call('POST', '/v2/ssh_keys', { name: 'laptop', public_key: KEY })
  assert.equal(created.status, 201, JSON.stringify(created.body))
  const { id } = created.body
  assert.equal(created.headers.location, `http://localhost:8080/v2/ssh_keys/${id}`)
  assert.deepEqual((await call('GET', `/v2/ssh_keys/${id}`)).body, created.body)
  const list = await call('GET', '/v2/ssh_keys')
  assert.deepEqual(list.body, { data: [created.body], pagination: { next_cursor: null, has_more: false } })
  const changed = await call('PUT', `/v2/ssh_keys/${id}`, { default: true })
  assert.deepEqual(changed.body, { ...created.body, default: true })
  assert.equal((await call('DELETE', `/v2/ssh_keys/${id}`)).status, 204)
  assert.equal((await call('GET', `/v2/ssh_keys/${id}`)).status, 404)
})

test('trims the line, and identifies a key by its fingerprint', async () => {
  const first = await call('POST', '/v2/ssh_keys', { name: 'one', public_key: ` ${KEY}\n` })
  assert.equal(first.body.public_key, KEY)
  assert.equal(first.body.default, false)
  const again = await call('POST', '/v2/ssh_keys', { name: 'two', public_key: KEY.replace('me@laptop', 'other') })
  assert.deepEqual([again.status, again.body.code], [409, 'already_exists'])
  assert.equal(again.body.existing_id, first.body.id)
  await call('DELETE', `/v2/ssh_keys/${first.body.id}`)
})

test('two concurrent requests create one key', async () => {
  const body = { name: 'race', public_key: KEY }
  const answers = await Promise.all(Array.from({ length: 8 }, () => call('POST', '/v2/ssh_keys', body)))
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, ...Array(7).fill(409)])
  const made = answers.find(({ status }) => status === 201)!
  await call('DELETE', `/v2/ssh_keys/${made.body.id}`)
})

test('returns 422 with all errors, without repeating a private key', async () => {
  const wrong = await call('POST', '/v2/ssh_keys', { name: 'a\nb', public_key: 5, defualt: true })
  assert.equal(wrong.status, 422)
  assert.deepEqual(wrong.body.errors.map(({ pointer }: { pointer: string }) => pointer).sort(), [
    '/defualt',
    '/name',
    '/public_key',
  ])
  const secret = '-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n-----END OPENSSH PRIVATE KEY-----'
  const leaked = await call('POST', '/v2/ssh_keys', { name: 'x', public_key: secret })
  assert.deepEqual([leaked.status, leaked.body.errors[0].code], [422, 'private_key'])
  assert.ok(!JSON.stringify(leaked.body).includes('b3BlbnNz'))
})

test('returns 412 when the key has changed', async () => {
  const { body, headers } = await call('POST', '/v2/ssh_keys', { name: 'x', public_key: KEY })
  const url = `/v2/ssh_keys/${body.id}`
  const etag = headers.etag!
  assert.equal((await call('PUT', url, { name: 'y' }, { 'if-match': etag })).status, 200)
  assert.equal((await call('PUT', url, { name: 'z' }, { 'if-match': etag })).status, 412)
  assert.equal((await call('DELETE', url, undefined, { 'if-match': `W/${etag}` })).status, 412)
  assert.equal((await call('GET', url)).body.name, 'y')
  assert.equal((await call('DELETE', url, undefined, { 'if-match': '*' })).status, 204)
})

test('returns 404 across environments and projects', async () => {
  const { body } = await call('POST', '/v2/ssh_keys', { name: 'x', public_key: KEY })
  const stranger = await createTestTenant(deps)
  for (const key of [sandbox.key, stranger.live.key, stranger.test.key]) {
    const other = caller(app, key)
    assert.equal((await other('GET', `/v2/ssh_keys/${body.id}`)).status, 404)
    assert.equal((await other('PUT', `/v2/ssh_keys/${body.id}`, { name: 'mine' })).status, 404)
    assert.equal((await other('DELETE', `/v2/ssh_keys/${body.id}`)).status, 404)
    assert.deepEqual((await other('GET', '/v2/ssh_keys')).body.data, [])
    assert.equal((await other('POST', '/v2/ssh_keys', { name: 'x', public_key: KEY })).status, 201)
  }
  await call('DELETE', `/v2/ssh_keys/${body.id}`)
})

test('instances get the default keys, or those of the request', async () => {
  const { environment_id } = live.principal
  const sql = deps.sql.as(environment_id)
  const { body } = await call('POST', '/v2/ssh_keys', { name: 'x', public_key: KEY, default: true })
  const found = [{ id: body.id, public_key: KEY }]
  assert.deepEqual([...(await findKeys(sql, environment_id, 'default'))], found)
  assert.deepEqual([...(await findKeys(sql, environment_id, [body.id, 'ssh_0000000000']))], found)
  await call('PUT', `/v2/ssh_keys/${body.id}`, { default: false })
  assert.deepEqual([...(await findKeys(sql, environment_id, 'default'))], [])
})
