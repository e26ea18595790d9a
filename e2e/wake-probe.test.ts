import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../server/src/db/testing.ts'
import { type Claim, claim, fail, finish, wake } from '../server/src/engine/work.ts'
import { installWakeProbe, lostWakes } from './wake-probe.ts'

test('a lost wake is noticed, and nothing else', async () => {
  const { sql, owner } = await createTestDatabase()
  await owner`insert into environments (id, mode) values ('env_1', 'system')`
  await installWakeProbe(owner)
  const claimed = async (): Promise<Claim> => {
    await wake(sql, 'kind', 'key', 'env_1')
    const [one] = await claim(sql, 'worker', ['kind'], 1)
    return one!
  }
  // Given back without a wake, to rest or for good, after a failure, and by one who has lost it.
  await finish(sql, await claimed(), 60)
  await fail(sql, await claimed(), 'why')
  const overtaken = await claimed()
  await owner`update work set leased_until = now() - interval '1 second'`
  await finish(sql, await claimed(), 60)
  await finish(sql, overtaken, 60)
  await finish(sql, await claimed(), null)
  // Woken meanwhile, and due at once, in each of these ways.
  for (const giveBack of [
    (one: Claim) => finish(sql, one, 60),
    (one: Claim) => finish(sql, one, null),
    (one: Claim) => fail(sql, one, 'why'),
  ]) {
    const one = await claimed()
    await wake(sql, 'kind', 'key', 'env_1')
    await giveBack(one)
  }
  assert.deepEqual(await lostWakes(owner), [])
  // As a build would that forgets to compare.
  for (const forgets of [
    (one: Claim) => finish(sql, { ...one, wakes: one.wakes + 1 }, 60),
    (one: Claim) => finish(sql, { ...one, wakes: one.wakes + 1 }, null),
    (one: Claim) => fail(sql, { ...one, wakes: one.wakes + 1 }, 'why'),
  ]) {
    const one = await claimed()
    await wake(sql, 'kind', 'key', 'env_1')
    const before = (await lostWakes(owner)).length
    await forgets(one)
    assert.equal((await lostWakes(owner)).length, before + 1, String(forgets))
  }
})
