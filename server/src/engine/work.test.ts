import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { withOutbox } from '../events/outbox.ts'
import { testOutboxDeps } from '../events/testing-outbox.ts'
import { seededRandom } from '../lib/random.ts'
import { withLease } from './record.ts'
import { backoffSeconds, type Claim, claim, fail, finish, LeaseLostError, renewLeases, wake } from './work.ts'

let sql: Sql
let owner: Sql
/** The role of requests and reconcilers. */
let tenant: Sql
before(async () => {
  ;({ sql, owner } = await createTestDatabase({ max: 20 }))
  tenant = sql.as('env_live')
  await owner`insert into environments (id, mode) values ('env_system', 'system')`
  await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
  await owner`insert into environments (id, project_id, mode) values ('env_live', 'proj_1', 'live'), ('env_test', 'proj_1', 'test')`
})
beforeEach(async () => {
  await owner`truncate work`
  await owner`update environments set clock_frozen_at = null, clock_offset = '0'`
})

const take = async (worker = 'w', limit = 10): Promise<Claim[]> => claim(sql, worker, ['thing'], limit)
const takeOne = async (worker = 'w'): Promise<Claim> => {
  const [claimed] = await take(worker)
  assert.ok(claimed, 'a key was to be claimed')
  return claimed
}
/** Records nothing under the lease of a claim. */
const underLease = (claimed: Claim) => withLease(testOutboxDeps(sql), claimed, async () => {})
/** As if the worker that holds the key had been killed and its lease had run out. */
const expireLeases = () => owner`update work set leased_until = now() - interval '1 second' where leased_by is not null`

describe('work', () => {
  test('a woken key is claimed once, by one worker', async () => {
    await wake(sql, 'thing', 'a', 'env_live')
    const claims = (await Promise.all(['x', 'y', 'z'].map((w) => take(w)))).flat()
    assert.equal(claims.length, 1)
    assert.equal(claims[0]!.environment_id, 'env_live')
  })

  test('finish requeues the key for the given time, or removes it', async () => {
    await wake(sql, 'thing', 'a', 'env_live')
    await finish(sql, await takeOne(), 3600)
    assert.deepEqual(await take(), [])
    await wake(sql, 'thing', 'a', 'env_live')
    await finish(sql, await takeOne(), null)
    assert.equal((await owner`select 1 from work`).length, 0)
  })

  test('a wake during a pass is not lost, whether the pass requeues, removes or fails', async () => {
    const endings: ((c: Claim) => Promise<void>)[] = [
      (c) => finish(sql, c, 3600),
      (c) => finish(sql, c, null),
      (c) => fail(sql, c, 'x'),
    ]
    for (const end of endings) {
      await owner`truncate work`
      await wake(sql, 'thing', 'a', 'env_live')
      const claimed = await takeOne()
      await wake(sql, 'thing', 'a', 'env_live')
      await end(claimed)
      assert.equal((await takeOne()).lease, claimed.lease + 1)
    }
  })

  test('a failed key is retried after a backoff in real time; a wake ends the backoff', async () => {
    await wake(sql, 'thing', 'a', 'env_live')
    await fail(sql, await takeOne(), 'disk on fire\0')
    assert.deepEqual(await take(), [])
    const [row] = await owner`select attempts, last_error, not_before > now() as waits from work`
    assert.deepEqual({ ...row }, { attempts: 1, last_error: 'disk on fire', waits: true })
    await wake(sql, 'thing', 'a', 'env_live')
    assert.equal((await takeOne()).attempts, 1)
  })

  test('the backoff doubles, up to a limit', () => {
    assert.deepEqual([0, 1, 2, 6, 7, 500].map(backoffSeconds), [0.5, 1, 2, 32, 60, 60])
  })

  test('a worker whose lease has expired can no longer record', async () => {
    await wake(sql, 'thing', 'a', 'env_live')
    const first = await takeOne('dead')
    await expireLeases()
    const second = await takeOne('alive')
    await assert.rejects(underLease(first), LeaseLostError)
    await underLease(second)
    await finish(sql, first, 3600)
    await fail(sql, first, 'late')
    const [row] = await owner`select leased_by, last_error from work`
    assert.deepEqual({ ...row }, { leased_by: 'alive', last_error: null })
  })

  test('a claim of a deleted key does not hold the key that replaced it', async () => {
    await wake(sql, 'thing', 'a', 'env_live')
    const first = await takeOne('dead')
    await expireLeases()
    await finish(sql, await takeOne('heir'), null)
    await wake(sql, 'thing', 'a', 'env_live')
    const again = await takeOne('alive')
    assert.ok(again.lease > first.lease)
    await assert.rejects(underLease(first), LeaseLostError)
    await underLease(again)
  })

  test('a renewed lease is not claimed, and a lost lease is not renewed', async () => {
    await wake(sql, 'thing', 'a', 'env_live')
    const first = await takeOne('slow')
    await expireLeases()
    await renewLeases(sql, 'slow', [first])
    assert.deepEqual(await take('other'), [])
    await expireLeases()
    await takeOne('other')
    await renewLeases(sql, 'slow', [first])
    const [row] = await owner`select leased_by from work`
    assert.equal(row!.leased_by, 'other')
  })

  test('a lease renewal does not wait for a transaction that wakes the key', async () => {
    for (const id of ['a', 'b']) await wake(sql, 'thing', id, 'env_live')
    const claims = await take('slow')
    await expireLeases()
    await tenant.begin(async (tx) => {
      await tx`update work set wakes = wakes + 1 where id = 'b'`
      await renewLeases(sql, 'slow', claims)
      await tx`update work set wakes = wakes + 1 where id = 'a'`
    })
    assert.deepEqual(
      (await take('other')).map(({ id }) => id),
      ['b'],
    )
  })

  test('due times are in the time of the environment: frozen and advanced', async () => {
    await owner`update environments set clock_frozen_at = '2030-01-01' where id = 'env_test'`
    await wake(sql, 'thing', 'a', 'env_test')
    const claimed = await takeOne()
    assert.equal(claimed.now.toISOString(), '2030-01-01T00:00:00.000Z')
    await finish(sql, claimed, 60)
    assert.deepEqual(await take(), [])
    await owner`update environments set clock_frozen_at = '2030-01-01 00:01' where id = 'env_test'`
    assert.equal((await takeOne()).id, 'a')
  })

  test('three workers, injected failures and killed workers: no two workers on a key, every desired change is applied', async () => {
    await owner`create table thing (id text primary key, want integer not null default 0, have integer not null default 0,
      lease bigint not null default 0)`
    await owner`grant select, update on thing to cn_app`
    // The database sees each claim and each write in their true order; replies reach this process in another one.
    await owner`create table violations (what text, id text)`
    await owner`create function violated() returns trigger language plpgsql security definer as $$
      begin
        insert into public.violations values (tg_name, old.id);
        return new;
      end $$`
    await owner`create trigger claimed_twice before update on work for each row
      when (new.lease <> old.lease and old.leased_until >= now()) execute function violated()`
    await owner`create trigger written_late before update on thing for each row
      when (new.lease < old.lease) execute function violated()`
    // Leases of living workers run out as well. Locked in one order: three workers do this, and two could wait for each other.
    const passTime = () => owner`
      update work set not_before = '-infinity',
        leased_until = case when leased_by is not null then now() - interval '1 second' end
      where id in (select id from work order by id for update)`
    const ids = Array.from({ length: 40 }, (_, i) => `t${i}`)
    for (const id of ids) await owner`insert into thing (id) values (${id})`
    const random = seededRandom(7)
    const deps = testOutboxDeps(sql)
    let writing = true
    const pending = async () => (await owner`select 1 from thing where want <> have limit 1`).length > 0

    async function step(claimed: Claim): Promise<void> {
      const [{ want }] = (await owner`select want from thing where id = ${claimed.id}`) as unknown as [{ want: number }]
      const luck = random.integer(100)
      if (luck < 5) return // killed: neither finish nor fail
      if (luck < 20) return fail(sql, claimed, 'injected')
      try {
        await withLease(deps, claimed, async (tx) => {
          await tx`update thing set have = ${want}, lease = ${claimed.lease} where id = ${claimed.id}`
        })
        await finish(sql, claimed, 3600)
      } catch (error) {
        assert.ok(error instanceof LeaseLostError, String(error))
      }
    }
    async function worker(name: string): Promise<void> {
      for (let rounds = 0; rounds < 20_000; rounds++) {
        const claims = await take(name, 4)
        await Promise.all(claims.map(step))
        if (claims.length > 0) continue
        if (!writing && !(await pending())) return
        await passTime()
      }
      assert.fail('a worker did not come to an end')
    }
    async function writer(): Promise<void> {
      for (let i = 0; i < 150; i++) {
        const id = ids[random.integer(ids.length)]!
        await withOutbox(deps, { environment_id: 'env_live', mode: 'live' }, async (tx, outbox) => {
          await tx`update thing set want = want + 1 where id = ${id}`
          outbox.wakes.push({ kind: 'thing', id, environment_id: 'env_live' })
        })
      }
    }
    const workers = ['a', 'b', 'c'].map(worker)
    await Promise.all([writer(), writer(), writer(), writer()])
    writing = false
    await Promise.all(workers)
    assert.deepEqual([...(await owner`select what, id from violations`)], [])
    assert.equal(await pending(), false)
  })
})
