/** Databases that cannot be used are rejected by one line that says what to change, and nothing is written in them. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { connect } from '../db/database.ts'
import { createEmbeddedPostgres } from '../db/embedded.ts'
import { withLogin } from '../db/roles.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { until } from '../testing/until.ts'
import { poolSizes, unsuitable } from './suitable.ts'
import { createDatabases, createDataDir, openForTest, rejectionOf } from './testing.ts'
import { startPgBouncer } from './testing-pgbouncer.ts'

const { admin, url: server, urlOf, create: database } = await createDatabases()
const data_dir = createDataDir()

const rejection = (database_url: string) => rejectionOf({ database_url }, { data_dir })
const alter = (setting: string) => (name: string) => [`alter database ${name} set ${setting}`]

describe('a database is rejected that', { timeout: 120_000 }, () => {
  test('has another encoding', async () => {
    assert.match(await rejection(await database(`encoding 'LATIN1' template template0`)), /LATIN1; UTF8 is required/)
  })

  test('is read-only', async () => {
    const url = await database('', alter('default_transaction_read_only = on'))
    assert.match(await rejection(url), /read-only by the setting default_transaction_read_only/)
  })

  test('has its triggers disabled', async () => {
    const url = await database('', alter(`session_replication_role = 'replica'`))
    assert.match(await rejection(url), /session_replication_role/)
  })

  test('belongs to another role, so that no table can be created', async () => {
    const role = `guest_${process.pid}`
    await admin.unsafe(`create role ${role} login createrole password 'p'`)
    const url = withLogin(await database(), role, 'p')
    assert.match(await rejection(url), new RegExp(`grant create on schema public to "${role}"`))
  })

  test('allows too few connections', async () => {
    const role = `few_${process.pid}`
    await admin.unsafe(`create role ${role} login superuser password 'p' connection limit 14`)
    assert.match(await rejection(withLogin(await database(), role, 'p')), /allows 14 connections/)
  })

  test('is a standby', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-standby-'))
    const options = { data_dir: folder, run_dir: folder, log: silentLog, clock: systemClock }
    const primary = createEmbeddedPostgres(options)
    await primary.start()
    await primary.stop(5_000)
    writeFileSync(join(folder, 'postgres/standby.signal'), '')
    const standby = createEmbeddedPostgres(options)
    // A standby never becomes ready for writes, for which a start waits.
    const starting = standby.start().catch(() => {})
    const url = standby.url('postgres')
    try {
      await until('the standby accepts connections', async () => {
        const sql = connect({ url, max: 1, name: 'standby' })
        const connected = await sql`select`.then(
          () => true,
          () => false,
        )
        await sql.end()
        return connected
      })
      assert.match(await rejection(url), /is a standby, which accepts no writes/)
    } finally {
      await standby.stop(5_000)
      await starting
      rmSync(folder, { recursive: true })
    }
  })

  test('is behind a pooler in transaction mode; one in session mode is accepted', async () => {
    const name = new URL((await database()).replace('@/', '@x/')).pathname.slice(1)
    const socket = new URL(server.replace('@/', '@x/')).searchParams.get('host')!
    for (const mode of ['transaction', 'session'] as const) {
      const pooler = await startPgBouncer(socket, mode, ['cloudnexus', 'cn_app_aaaa', 'cn_engine_aaaa'])
      try {
        const url = `postgres://cloudnexus@127.0.0.1:${pooler.port}/${name}`
        if (mode === 'transaction') {
          assert.match(await rejection(url), /pooler in transaction mode/)
          const check = connect({ url: urlOf(name), max: 1, name: 'check' })
          assert.equal((await check`select from pg_tables where schemaname = 'public'`).count, 0, 'nothing was written')
          await check.end()
        } else {
          const opened = await openForTest({ database_url: url }, { data_dir })
          assert.equal((await opened.owner`select from installation`).count, 1)
          await opened.stop()
        }
      } finally {
        await pooler.stop()
      }
    }
  })
})

test('a server that is too old, and a schema that does not exist, are rejected', () => {
  const facts = {
    ...{ version_number: 180_000, version: '18.0', encoding: 'UTF8', is_standby: false, is_read_only: false },
    ...{ replication_role: 'origin', has_schema: true, can_create: true, role: 'r', connection_limit: 97 },
  }
  assert.equal(unsuitable(facts, false), null)
  assert.match(unsuitable({ ...facts, is_standby: true, is_read_only: true }, false)!, /standby/)
  assert.match(unsuitable({ ...facts, version_number: 140_011, version: '14.11' }, false)!, /14\.11; version 15/)
  assert.match(unsuitable({ ...facts, has_schema: false, can_create: false }, false)!, /create schema public/)
  assert.equal(unsuitable({ ...facts, can_create: false }, true), null, 'the tables exist already')
})

test('the pools fit the connection limit, leave a fifth of it free, and are full where it allows', () => {
  assert.deepEqual(poolSizes(97), { tenants: 40, engine: 20 })
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1_000 }), (limit) => {
      const sizes = poolSizes(limit)
      if (sizes === null) return assert.ok(limit < 15)
      assert.ok(sizes.tenants + sizes.engine + 4 <= limit * 0.8)
      assert.ok(sizes.tenants >= 1 && sizes.engine >= 1 && sizes.tenants <= 40 && sizes.engine <= 20)
    }),
  )
})
