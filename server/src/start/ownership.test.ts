/** One database belongs to one data directory, on real databases. */
import assert from 'node:assert/strict'
import { cpSync, renameSync, rmSync } from 'node:fs'
import { describe, test } from 'node:test'
import pg from 'pg'
import type { Sql } from '../db/database.ts'
import { until } from '../testing/until.ts'
import { decide, isSameMark, type Owner } from './ownership.ts'
import { createDatabases, createDataDir, type Opening, openForTest, rejectionOf } from './testing.ts'

const { admin, create: database } = await createDatabases()
const rejection = (database_url: string, of: Opening) => rejectionOf({ database_url }, of)

const digest = async (sql: Sql) =>
  (await sql<{ text: string }[]>`select string_agg(i::text, '') as text from installation i`)[0]!.text

describe('one database', { timeout: 120_000 }, () => {
  test('is opened again by its data directory, also after it was renamed', async () => {
    const database_url = await database()
    const data_dir = createDataDir()
    await (await openForTest({ database_url }, { data_dir })).stop()
    await (await openForTest({ database_url }, { data_dir })).stop()
    const renamed = `${data_dir}-renamed`
    renameSync(data_dir, renamed)
    await (await openForTest({ database_url }, { data_dir: renamed })).stop()
    renameSync(renamed, data_dir)
  })

  test('is refused to another installation, running or stopped, and nothing is written', async () => {
    const database_url = await database()
    const first = await openForTest({ database_url }, { data_dir: createDataDir() })
    const before = await digest(first.owner)
    const other = { data_dir: createDataDir('bbbb'), id: 'bbbb' }
    assert.match(await rejection(database_url, other), /^Another control plane runs on this database: .* on /)
    assert.match(await rejection(database_url, { ...other, take_over: true }), /^Another control plane runs/)
    assert.equal(await digest(first.owner), before)
    const roles = await first.owner`select from pg_roles where rolname like '%_bbbb'`
    assert.equal(roles.count, 0)
    await first.stop()
    for (const take_over of [false, true]) {
      const reason = await rejection(database_url, { ...other, take_over })
      assert.match(reason, /belongs to another data directory \(installation aaaa\): .* Use another database/)
    }
  })

  test('is opened after a first start that was killed before it stored the owner', async () => {
    const database_url = await database()
    const killed = new pg.Client({ connectionString: database_url })
    await killed.connect()
    await killed.query('select pg_advisory_lock(7202603)')
    const opening = openForTest({ database_url }, { data_dir: createDataDir() })
    await until('the start waits for the lock', async () => {
      const waiting = await admin`
        select from pg_stat_activity where query like 'select pg_try_advisory_lock%'
          and datname = ${new URL(database_url.replace('@/', '@x/')).pathname.slice(1)}`
      return waiting.count > 0
    })
    await killed.end()
    await (await opening).stop()
  })

  test('is refused to a data directory whose secrets were replaced', async () => {
    const database_url = await database()
    const data_dir = createDataDir()
    await (await openForTest({ database_url }, { data_dir })).stop()
    assert.match(await rejection(database_url, { data_dir, secret: 2, take_over: true }), /with other secrets/)
    await (await openForTest({ database_url }, { data_dir, key: 2 })).stop()
  })

  test('is refused to a copy of the data directory beside the original; --take-over makes the copy the owner', async () => {
    const database_url = await database()
    const original = createDataDir()
    const copy = createDataDir()
    const running = await openForTest({ database_url }, { data_dir: original })
    rmSync(copy, { recursive: true })
    cpSync(original, copy, { recursive: true })
    for (const take_over of [false, true]) {
      const reason = await rejection(database_url, { data_dir: copy, take_over })
      assert.ok(reason.startsWith(`Another control plane runs on this database: ${original} on `), reason)
    }
    await running.stop()
    const reason = await rejection(database_url, { data_dir: copy })
    assert.match(reason, /is a copy of the data directory .* start once with --take-over\.$/)

    await (await openForTest({ database_url }, { data_dir: copy, take_over: true })).stop()
    await (await openForTest({ database_url }, { data_dir: copy })).stop()
    assert.match(await rejection(database_url, { data_dir: original }), /is a copy of the data directory/)
    rmSync(copy, { recursive: true })
    await (await openForTest({ database_url }, { data_dir: original })).stop()
  })

  test('stops a control plane whose database was taken over while its connection was interrupted', async () => {
    const database_url = await database()
    const data_dir = createDataDir()
    const opened = await openForTest({ database_url }, { data_dir })
    const lost: string[] = []
    opened.ownership.watch((reason) => void lost.push(reason))
    const interrupt = () => admin`
      select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
      where l.locktype = 'advisory' and d.datname = ${new URL(database_url.replace('@/', '@x/')).pathname.slice(1)}`
    assert.equal((await interrupt()).count, 1)
    await until('the lock is taken again', async () => (await interrupt()).count === 1)
    assert.deepEqual(lost, [])
    await opened.owner`update installation set directory_mark = 'other:1', data_dir = '/other'`
    await until('the loss is reported', async () => {
      await interrupt()
      return lost.length > 0
    })
    assert.match(lost[0]!, /^Another control plane runs on this database: \/other on /)
    await opened.stop()
  })
})

test('a mark without a creation time is compared by its inode', () => {
  assert.ok(isSameMark('1:5', '1:5') && isSameMark('1:', '1:5') && isSameMark('1:5', '1:'))
  assert.ok(!isSameMark('1:5', '1:6') && !isSameMark('1:5', '2:5') && !isSameMark('1:', '2:'))
})

test('decides by the ID, the secrets and the mark', () => {
  const own: Owner = { id: 'a', secrets_digest: 's', directory_mark: '1:1', data_dir: '/d', host: 'h' }
  assert.equal(decide(null, own, false, false).kind, 'take')
  assert.equal(decide({ ...own, data_dir: '/old', host: 'old' }, own, false, false).kind, 'same')
  const copied = { ...own, directory_mark: '2:2' }
  assert.equal(decide(copied, own, false, false).kind, 'refuse')
  assert.equal(decide(copied, own, true, false).kind, 'take')
  assert.equal(decide(copied, own, false, true).kind, 'take')
  for (const other of [
    { ...own, id: 'b' },
    { ...own, secrets_digest: 't' },
  ]) {
    for (const isGone of [false, true]) assert.equal(decide(other, own, isGone, true).kind, 'refuse')
  }
})
