import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { after, before, describe, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { until } from '../testing/until.ts'
import { createEngine, type Engine, type Reconcilers } from './loop.ts'
import { LEASE_SECONDS, WORK_CHANNEL, wake } from './work.ts'

let sql: Sql
let owner: Sql
let url: string
const engines: Engine[] = []
before(async () => {
  const database = await createTestDatabase({ max: 20 })
  owner = database.owner
  sql = database.sql
  url = database.urls.cn_engine
  await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
  await owner`insert into environments (id, project_id, mode) values ('env_1', 'proj_1', 'live')`
})
after(() => Promise.all(engines.map((engine) => engine.stop(5_000))))

async function start(reconcilers: Reconcilers, options: { poll_ms?: number; concurrency?: number } = {}) {
  const worker = `w${engines.length}`
  const engine = createEngine({ sql, clock: systemClock, log: silentLog, worker, reconcilers, ...options })
  engines.push(engine)
  await engine.start()
  return engine
}

const announce = () => sql.notify(WORK_CHANNEL, '')

describe('engine', { timeout: 240_000 }, () => {
  test('a notification wakes the loop before the poll interval ends', async () => {
    const passes: string[] = []
    const one = async ({ id }: { id: string }) => {
      passes.push(id)
      return { after_seconds: null }
    }
    await start({ notified: one }, { poll_ms: 3_600_000 })
    await wake(sql, 'notified', 'a', 'env_1')
    await announce()
    await until('a pass', () => passes.length === 1)
  })

  test('the poll finds due keys without a notification', async () => {
    let passes = 0
    await start({ polled: async () => ({ after_seconds: passes++ === 0 ? 0.2 : null }) }, { poll_ms: 50 })
    await wake(sql, 'polled', 'a', 'env_1')
    await until('a second pass', () => passes === 2)
  })

  test('an interval shorter than the poll interval is kept', async () => {
    let passes = 0
    await start({ rested: async () => ({ after_seconds: passes++ < 3 ? 0.05 : null }) }, { poll_ms: 3_600_000 })
    await wake(sql, 'rested', 'a', 'env_1')
    await announce()
    await until('four passes', () => passes === 4)
  })

  test('runs at most `concurrency` passes at the same time, and every key gets one', async () => {
    let now = 0
    let most = 0
    const done = new Set<string>()
    const step = async ({ id }: { id: string }) => {
      most = Math.max(most, ++now)
      await systemClock.sleep(5)
      now--
      done.add(id)
      return { after_seconds: null }
    }
    for (let i = 0; i < 60; i++) await wake(sql, 'many', `k${i}`, 'env_1')
    await start({ many: step }, { concurrency: 4 })
    await until('a pass of every key', () => done.size === 60)
    assert.equal(most, 4)
  })

  test('retries a step that throws, and records its error', async () => {
    let attempts = 0
    const step = async () => {
      if (++attempts < 3) throw new Error(`attempt ${attempts}`)
      return { after_seconds: 3600 }
    }
    await start({ failing: step }, { poll_ms: 50 })
    await wake(sql, 'failing', 'a', 'env_1')
    await until(
      'a second failure',
      async () => (await sql`select 1 from work where kind = 'failing' and last_error = 'attempt 2'`).length > 0,
    )
    await until('a third attempt', () => attempts === 3)
  })

  test('stop waits for the running pass and claims no more keys', async () => {
    let release = () => {}
    let passes = 0
    const step = () =>
      new Promise<{ after_seconds: null }>((resolve) => {
        passes++
        release = () => resolve({ after_seconds: null })
      })
    const engine = await start({ slow: step })
    await wake(sql, 'slow', 'a', 'env_1')
    await announce()
    await until('a pass', () => passes === 1)
    const stopped = engine.stop(10_000)
    await wake(sql, 'slow', 'b', 'env_1')
    await announce()
    release()
    await stopped
    assert.equal(passes, 1)
    assert.deepEqual(
      [...(await sql`select id from work where kind = 'slow'`)].map((r) => r.id),
      ['b'],
    )
  })

  test('stop releases the keys that a claim in flight leased, and starts no pass', async () => {
    let passes = 0
    const engine = await start({ late: async () => (passes++, { after_seconds: null }) }, { poll_ms: 3_600_000 })
    const { stopped } = await owner.begin(async (tx) => {
      await tx`lock table work in exclusive mode` // The claim waits for it.
      engine.nudge()
      await until('a claim that waits', async () => {
        const waiting = await owner`select from pg_locks where not granted and relation = 'work'::regclass`
        return waiting.count > 0
      })
      await tx`select wake_keys(array['late'], array['a'], array['env_1'])`
      return { stopped: engine.stop(10_000) }
    })
    await stopped
    assert.equal(passes, 0)
    const rows = await sql`select lease > 0 as has_been_leased, leased_by, leased_until from work where kind = 'late'`
    assert.deepEqual([...rows], [{ has_been_leased: true, leased_by: null, leased_until: null }])
  })

  test('a worker that is killed -9 in a step is replaced when its lease ends', async () => {
    await wake(sql, 'orphaned', 'a', 'env_1')
    const child = fork(new URL('./testing-worker.ts', import.meta.url), [url], { stdio: 'inherit' })
    const [message] = await once(child, 'message')
    assert.equal(message, 'in step')
    child.kill('SIGKILL')
    await once(child, 'exit')
    const [left] = await sql<{ seconds: number }[]>`
      select extract(epoch from leased_until - now())::float8 as seconds from work where kind = 'orphaned'`
    assert.ok(left!.seconds <= LEASE_SECONDS && LEASE_SECONDS <= 15)
    let taken = false
    await start({ orphaned: async () => ((taken = true), { after_seconds: null }) }, { poll_ms: 100 })
    await until('a pass of the orphaned key', () => taken)
  })
})
