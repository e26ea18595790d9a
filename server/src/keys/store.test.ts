import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { systemRandom } from '../lib/random.ts'
import { newKey } from './format.ts'
import { createKeyLookup } from './lookup.ts'
import { createKey } from './store.ts'

const { sql, owner } = await createTestDatabase()
const pepper = new Uint8Array(32)
await owner`insert into projects (id, name, created_at) values ('proj_1', 'one', now())`
await owner`insert into environments (id, project_id, mode) values ('env_1', 'proj_1', 'live')`

let queries = 0
const counting = ((...args: Parameters<Sql>) => {
  queries++
  return sql(...args)
}) as Sql
let now = 0
const clock = { ...systemClock, monotonic: () => now }
const lookup = () => createKeyLookup({ sql: counting, clock, pepper })
const create = () =>
  createKey(owner, { pepper }, systemRandom, {
    environment_id: 'env_1',
    mode: 'live',
    name: 'test',
    scopes: ['instances:read'],
  })

test('a malformed key costs no query', async () => {
  queries = 0
  const key = newKey('live', systemRandom)
  const malformed = [
    '',
    'x',
    key.slice(1),
    `${key}0`,
    key.replace(/.$/, (c) => (c === 'a' ? 'b' : 'a')),
    '\0'.repeat(49),
  ]
  for (const text of malformed) assert.equal(await lookup().find(text), null)
  assert.equal(queries, 0)
})

test('returns the principal of a key and caches it for half a second', async () => {
  const { id, key } = await create()
  const keys = lookup()
  assert.equal(keys.cached(key), undefined)
  const principal = {
    key_id: id,
    project_id: 'proj_1',
    environment_id: 'env_1',
    mode: 'live',
    scopes: ['instances:read'],
    allowed_addresses: null,
    budget_id: null,
  }
  assert.deepEqual(await keys.find(key), principal)
  now += 499
  assert.deepEqual(keys.cached(key), principal)
  now += 1
  assert.equal(keys.cached(key), undefined)
})

test('looks up many unknown keys in few statements', async () => {
  const { key } = await create()
  const keys = lookup()
  const before = queries
  const unknown = Array.from({ length: 2_000 }, () => newKey('live', systemRandom))
  const found = await Promise.all([...unknown.map((each) => keys.find(each)), keys.find(key)])
  assert.equal(found.filter((principal) => principal !== null).length, 1)
  assert.ok(queries - before <= 6, `${queries - before}`)
})

test('returns null for unknown, revoked and expired keys, and does not cache them', async () => {
  const revoked = await create()
  await owner`update api_keys set revoked_at = now() where id = ${revoked.id}`
  const expired = await create()
  await owner`update api_keys set expires_at = now() where id = ${expired.id}`
  const keys = lookup()
  for (const key of [revoked.key, expired.key, newKey('live', systemRandom)]) {
    assert.equal(await keys.find(key), null)
    assert.equal(keys.cached(key), undefined)
  }
})

test('does not cache a key beyond its expiry', async () => {
  const { id, key } = await create()
  await owner`update api_keys set revoked_at = now() + interval '300 milliseconds' where id = ${id}`
  const keys = lookup()
  assert.ok(await keys.find(key))
  now += 301
  assert.equal(keys.cached(key), undefined)
})

test('reads a dropped key again, also when it was dropped during a query', async () => {
  const { id, key } = await create()
  const keys = lookup()
  assert.ok(await keys.find(key))
  keys.drop('key_another')
  assert.ok(keys.cached(key))
  keys.drop(id)
  assert.equal(keys.cached(key), undefined)
  const reading = keys.find(key)
  keys.drop(id)
  assert.ok(await reading)
  assert.equal(keys.cached(key), undefined)
})

test('the database contains no key', async () => {
  const { key } = await create()
  const [row] = await owner<{ text: string }[]>`select string_agg(k::text, ' ') as text from api_keys k`
  assert.ok(!row!.text.includes(key))
  assert.ok(!row!.text.includes(key.slice(11, 43)))
})
