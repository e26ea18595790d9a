/** The recorder on a real database whose connection is lost at critical points. */
import assert from 'node:assert/strict'
import { beforeEach, describe, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { type Log, silentLog } from '../lib/log.ts'
import { systemRandom } from '../lib/random.ts'
import { until } from '../testing/until.ts'
import { createRequestLog } from './recorder.ts'
import type { NewRequest, NewSpan } from './row.ts'
import { rotateDays } from './store.ts'

const { sql, owner } = await createTestDatabase()
await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
await owner`insert into environments (id, project_id, mode) values ('env_1', 'proj_1', 'live')`
beforeEach(() => owner`truncate requests, spans`)

/** A connection that can be lost before a statement reaches the server, or before its result returns. */
function fragile() {
  const state = { lost: 'never' as 'never' | 'before' | 'after', statements: 0 }
  const tag = async (strings: TemplateStringsArray, ...values: unknown[]) => {
    state.statements++
    if (state.lost === 'before') throw new DatabaseUnavailableError('a test')
    const rows = await sql(strings, ...values)
    if (state.lost === 'after') throw new DatabaseUnavailableError('a test')
    return rows
  }
  return { state, sql: Object.assign(tag, sql) as unknown as Sql }
}

function recorder(options: { sql?: Sql; log?: Log; capacity?: number } = {}) {
  return createRequestLog({ sql, clock: systemClock, random: systemRandom, log: silentLog, days: 14, ...options })
}

let count = 0
function request(fields: Partial<NewRequest> = {}): NewRequest {
  const id = `req_${String(count++).padStart(20, '0')}`
  return {
    id,
    environment_id: 'env_1',
    request_id: id,
    at: systemClock.now().getTime(),
    key_id: 'key_1',
    method: 'POST',
    route: '/v2/instances',
    resource: null,
    status: 201,
    code: null,
    duration_ms: 1,
    address: '127.0.0.1',
    user_agent: null,
    aborted: false,
    sample_rate: 1,
    transactions: null,
    ...fields,
  }
}

function span(fields: Partial<NewSpan> = {}): NewSpan {
  return {
    environment_id: 'env_1',
    request_id: 'x',
    resource: 'inst_a',
    started_at: systemClock.now(),
    name: 'start',
    kind: 'step',
    duration_ms: 1,
    status: 'ok',
    waits_for: 'boot',
    detail: {},
    ...fields,
  } as NewSpan
}

const rows = async (table = 'requests') => (await sql`select * from ${sql(table)}`).length

describe('the recorder', { timeout: 240_000 }, () => {
  test('writes rows in batches after a delay', async () => {
    const { state, sql: counted } = fragile()
    const log = recorder({ sql: counted })
    for (let i = 0; i < 400; i++) log.request(request(), true)
    await until('400 rows', async () => (await rows()) >= 400)
    // The first day of a new database: the insert fails, the partition is created, the insert is retried.
    assert.ok(state.statements <= 3, `${state.statements}`)
    assert.equal(log.counts().written, 400)
  })

  test('flush resolves when all rows can be read, also those recorded during a write', async () => {
    const log = recorder()
    for (let i = 0; i < 5; i++) {
      log.request(request(), true)
      const flushed = log.flush()
      log.request(request({ method: 'GET', status: 200 }), false)
      await Promise.all([flushed, log.flush()])
      assert.equal(await rows(), 2 * (i + 1))
    }
  })

  test('keeps rows while the database is unavailable, and writes each exactly once', async () => {
    for (const lost of ['before', 'after'] as const) {
      await owner`truncate requests, spans`
      const { state, sql: lossy } = fragile()
      const log = recorder({ sql: lossy })
      state.lost = lost
      log.request(request(), true)
      log.span(span())
      await log.flush()
      log.request(request(), true)
      await log.flush()
      state.lost = 'never'
      await log.flush()
      await log.flush()
      assert.deepEqual([await rows(), await rows('spans')], [2, 1], lost)
      assert.equal(log.counts().dropped_kept, 0)
    }
  })

  test('retries after a delay', async () => {
    const { state, sql: lossy } = fragile()
    const log = recorder({ sql: lossy })
    state.lost = 'before'
    log.request(request(), true)
    await log.flush()
    state.lost = 'never'
    await until('a row', async () => (await rows()) >= 1)
    assert.equal(log.counts().queued, 0)
  })

  test('a full queue drops reads first; a dropped write is logged and counted', async () => {
    const { state, sql: lossy } = fragile()
    const lines: string[] = []
    const loud: Log = { ...silentLog, error: (_fields, message) => lines.push(message) }
    const log = recorder({ sql: lossy, log: loud, capacity: 10 })
    state.lost = 'before'
    log.request(request(), true)
    await log.flush() // one row is pending outside the queue
    for (let i = 0; i < 10; i++) log.request(request({ method: 'GET', status: 200 }), false)
    for (let i = 0; i < 12; i++) log.request(request(), true)
    log.request(request({ method: 'GET', status: 200 }), false)
    assert.deepEqual([log.counts().dropped_reads, log.counts().dropped_kept], [11, 2])
    state.lost = 'never'
    await log.stop(5_000)
    assert.equal((await sql`select 1 from requests where method = 'POST'`).length, 11)
    assert.deepEqual(lines, ['the queue of the request log is full; dropped writes and failures'])
  })

  test('logs rows that the database rejects, and continues with later rows', async () => {
    const lines: string[] = []
    const log = recorder({ log: { ...silentLog, error: (_fields, message) => lines.push(message) } })
    log.request(request({ at: 0 }), true) // a day that never gets a partition
    await log.flush()
    log.request(request(), true)
    await log.flush()
    assert.deepEqual([await rows(), log.counts().dropped_kept, lines.length], [1, 1, 1])
  })

  test('stop writes all queued rows, and nothing after that', async () => {
    const log = recorder()
    for (let i = 0; i < 2_500; i++) log.request(request(), true)
    await log.stop(10_000)
    assert.equal(await rows(), 2_500)
    log.request(request(), true)
    await log.flush()
    assert.equal(await rows(), 2_500)
  })

  test('leaves out rows of an environment that was deleted, and writes the others', async () => {
    const log = recorder()
    log.request(request({ environment_id: 'env_gone' }), true)
    log.span(span({ environment_id: 'env_gone' }))
    log.request(request(), true)
    log.request(request({ environment_id: null }), true)
    await log.stop(1_000)
    assert.deepEqual([await rows(), await rows('spans')], [2, 0])
  })

  test('records a repeated step as one span', async () => {
    const log = recorder()
    const at = (ms: number) => new Date(systemClock.now().getTime() + ms)
    for (let i = 0; i < 5; i++) log.span(span({ name: 'power_down', started_at: at(i) }))
    log.span(span({ name: 'kill', started_at: at(6) }))
    log.span(span({ name: 'power_down', started_at: at(7) }))
    log.span(span({ name: 'power_down', resource: 'inst_b', started_at: at(8) }))
    await log.flush()
    const names = await sql`select name from spans order by started_at`
    assert.deepEqual(
      names.map((row) => row.name),
      ['power_down', 'kill', 'power_down', 'power_down'],
    )
  })
})

describe('the days of the log', () => {
  const days = async (table: string) =>
    (
      await sql`select inhrelid::regclass::text as name from pg_inherits where inhparent = ${table}::regclass order by 1`
    ).map((row) => Number(row.name.slice(-8)))
  const day = (offset: number) =>
    Number(new Date(systemClock.now().getTime() + offset * 86_400_000).toISOString().slice(0, 10).replaceAll('-', ''))

  test('creates partitions from yesterday to three days ahead, is idempotent, and drops old ones', async () => {
    await rotateDays(sql, 14)
    assert.equal(await rotateDays(sql, 14), 0)
    assert.deepEqual(await days('requests'), [-1, 0, 1, 2, 3].map(day))
    for (const [table, from, to] of [
      ['requests', 0, 1],
      ['spans', "'2020-01-01'", "'2020-01-02'"],
    ]) {
      await owner.unsafe(`create table ${table}_20200101 partition of ${table} for values from (${from}) to (${to})`)
    }
    assert.equal(await rotateDays(sql, 14), 2)
    for (const table of ['requests', 'spans']) assert.deepEqual(await days(table), [-1, 0, 1, 2, 3].map(day))
    assert.equal(await rotateDays(sql, 1), 0)
    await assert.rejects(rotateDays(sql, 0))
  })

  test('concurrent writers create a missing partition once', async () => {
    await owner.unsafe(`drop table requests_${day(3)}, spans_${day(3)}`)
    const changes = await Promise.all(Array.from({ length: 6 }, () => rotateDays(sql, 14)))
    assert.equal(
      changes.reduce((sum, each) => sum + each),
      1,
    )
  })

  test('a list reads only the newest partitions it needs', async () => {
    await rotateDays(sql, 14)
    const plan = await sql.unsafe<{ 'QUERY PLAN': string }[]>(
      `explain select * from requests where environment_id = 'env_1' order by ordinal desc limit 20`,
    )
    const text = plan.map((row) => row['QUERY PLAN']).join('\n')
    assert.match(text, /Limit[\s\S]*->\s+Append/)
    assert.doesNotMatch(text, /Sort|Merge Append/)
  })
})
