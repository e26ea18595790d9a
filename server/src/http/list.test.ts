import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { caller, createTestApp, createTestTenant } from './testing.ts'

const { app, deps, owner, call, live } = await createTestApp()
after(() => app.close())
const { environment_id } = live.principal

let made = 0
async function insert(count: number): Promise<string[]> {
  const rows = await owner<{ id: string }[]>`
    insert into ssh_keys (environment_id, id, name, public_key, fingerprint, created_at)
    select ${environment_id}, 'ssh_' || lpad((${made}::integer + n)::text, 10, '0'), 'key', 'x', ${made}::text || n, now()
    from generate_series(1, ${count}::integer) n returning id`
  made += count
  return rows.map(({ id }) => id)
}
const remove = (ids: string[]) => owner`delete from ssh_keys where id = any(${ids})`

/** Follows next_cursor to the end; `between` runs after each page. */
async function walk(query: string, between: () => Promise<unknown> = async () => {}): Promise<string[]> {
  const seen: string[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { status, body } = await call('GET', `/v2/ssh_keys?${query}${cursor && `&cursor=${cursor}`}`)
    assert.equal(status, 200)
    seen.push(...body.data.map(({ id }: { id: string }) => id))
    cursor = body.pagination.next_cursor
    assert.equal(body.pagination.has_more, cursor !== null)
    await between()
  }
  return seen
}

test('pages of any size contain each item once, newest or oldest first', async () => {
  const ids = await insert(45)
  for (const limit of [1, 7, 20, 44, 45, 46, 100]) {
    assert.deepEqual(await walk(`limit=${limit}`), ids.toReversed())
    assert.deepEqual(await walk(`limit=${limit}&sort=created_at`), ids)
  }
  assert.equal((await call('GET', '/v2/ssh_keys')).body.data.length, 20)
  await remove(ids)
})

test('items that exist throughout are returned exactly once despite concurrent creates and deletes', async () => {
  const change = fc.record({ add: fc.nat(5), remove: fc.array(fc.nat(40), { maxLength: 5 }) })
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 9 }),
      fc.constantFrom('-created_at', 'created_at'),
      fc.array(change, { maxLength: 20 }),
      async (limit, sort, changes) => {
        const initial = await insert(30)
        const all = [...initial]
        const removed = new Set<string>()
        const seen = await walk(`limit=${limit}&sort=${sort}`, async () => {
          const next = changes.shift()
          if (!next) return
          all.push(...(await insert(next.add)))
          const deleted = next.remove.map((at) => all[at % all.length]!)
          for (const id of deleted) removed.add(id)
          await remove(deleted)
        })
        assert.equal(new Set(seen).size, seen.length, 'no duplicates')
        assert.deepEqual(
          initial.filter((id) => !removed.has(id) && !seen.includes(id)),
          [],
          'nothing missing',
        )
        await remove(all)
      },
    ),
    { numRuns: 15 },
  )
})

test('Link has the URL of the next page, with the same parameters', async () => {
  const ids = await insert(5)
  const first = await call('GET', '/v2/ssh_keys?limit=3&sort=created_at')
  const [, link] = /^<http:\/\/localhost:8080(\/v2\/ssh_keys\?[^>]+)>; rel="next"$/.exec(first.headers.link!)!
  const second = await call('GET', link!)
  assert.deepEqual(
    second.body.data.map(({ id }: { id: string }) => id),
    ids.slice(3),
  )
  assert.equal(second.headers.link, undefined)
  await remove(ids)
})

test('returns 400 for a modified cursor, or one of another sort order, list or tenant', async () => {
  const ids = await insert(5)
  const { body } = await call('GET', '/v2/ssh_keys?limit=2')
  const cursor: string = body.pagination.next_cursor
  assert.equal((await call('GET', `/v2/ssh_keys?limit=100&cursor=${cursor}`)).status, 200)
  for (const url of [
    `/v2/ssh_keys?cursor=${cursor.slice(1)}`,
    `/v2/ssh_keys?cursor=`,
    `/v2/ssh_keys?sort=created_at&cursor=${cursor}`,
    `/v2/plans?cursor=${cursor}`,
  ]) {
    const response = await call('GET', url)
    assert.deepEqual([response.status, response.body.code], [400, 'invalid_cursor'], url)
  }
  const other = await createTestTenant(deps)
  assert.equal((await caller(app, other.live.key)('GET', `/v2/ssh_keys?cursor=${cursor}`)).status, 400)
  await remove(ids)
})

test('returns 400 for invalid parameters', async () => {
  for (const query of ['limit=0', 'limit=101', 'limit=ten', 'limit=', 'sort=name', 'page=2', 'limit=5&limit=6']) {
    const response = await call('GET', `/v2/ssh_keys?${query}`)
    assert.deepEqual([response.status, response.body.code], [400, 'invalid_parameter'], query)
    assert.equal(response.body.errors[0].parameter, query.split('=')[0])
  }
})
