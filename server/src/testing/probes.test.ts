/** The probe of work sees a wake that is lost, and nothing in what may go on around one that is not. */
import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import { createTestDatabase } from '../db/testing.ts'
import { type Claim, claim, fail, finish, renewLeases, wake } from '../engine/work.ts'
import { installProbes, lostWakesOf } from './probes.ts'

const { sql, owner } = await createTestDatabase()

before(async () => {
  await owner`insert into projects (id, name, created_at) values ('proj_1', 'p', now())`
  await owner`insert into environments (id, project_id, mode) values ('env_test', 'proj_1', 'test')`
  await installProbes(owner)
})
beforeEach(async () => {
  await owner`truncate work, probed_lost_wakes`
  await owner`update environments set clock_frozen_at = '2030-01-01'`
  await woken()
})

const woken = () => wake(sql, 'thing', 'a', 'env_test')
const lost = async () => (await lostWakesOf(owner, 'env_test')).map((each) => ({ ...each }))
const take = async (): Promise<Claim> => (await claim(sql, 'w', ['thing'], 1))[0]!
const expireLeases = () => owner`update work set leased_until = now() - interval '1 second'`
const endings: Record<string, (claimed: Claim) => Promise<void>> = {
  'it rests': (claimed) => finish(sql, claimed, 3600),
  'it is gone': (claimed) => finish(sql, claimed, null),
  'it failed': (claimed) => fail(sql, claimed, 'x'),
}

for (const [name, end] of Object.entries(endings)) {
  describe(`nothing is lost where ${name}`, () => {
    test('and it was not woken', async () => {
      await end(await take())
      assert.deepEqual(await lost(), [])
    })

    test('and it was woken meanwhile, twice, in a time that moves on', async () => {
      const claimed = await take()
      await woken()
      await owner`update environments set clock_frozen_at = null, clock_offset = '10 years'`
      await woken()
      await end(claimed)
      assert.equal((await take()).lease, claimed.lease + 1)
      assert.deepEqual(await lost(), [])
    })

    test('and it was woken after the end', async () => {
      await end(await take())
      await woken()
      await end(await take())
      assert.deepEqual(await lost(), [])
    })

    test('and a lease ran out: what another one claims has all wakes', async () => {
      const first = await take()
      await woken()
      await renewLeases(sql, 'w', [first])
      await expireLeases()
      const second = await take()
      await end(first)
      assert.deepEqual(await lost(), [])
      await end(second)
      assert.deepEqual(await lost(), [])
    })
  })
}

describe('a lost wake is seen where a key that was woken', () => {
  const lose = async (statement: () => PromiseLike<unknown>) => {
    const { lease } = await take()
    await woken()
    await statement()
    return { kind: 'thing', id: 'a', lease }
  }

  test('rests', async () => {
    const key = await lose(
      () => owner`update work set leased_by = null, due_at = environment_now('env_test') + interval '1 ms'`,
    )
    assert.deepEqual(await lost(), [{ ...key, gone: false }])
  })

  test('waits because of a failure', async () => {
    const key = await lose(() => owner`update work set leased_by = null, not_before = now() + interval '1 ms'`)
    assert.deepEqual(await lost(), [{ ...key, gone: false }])
  })

  test('is gone', async () => {
    const key = await lose(() => owner`delete from work`)
    assert.deepEqual(await lost(), [{ ...key, gone: true }])
  })
})
