import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createSlots, SlotsFull } from './slots.ts'

test('never runs more than the limits, refuses only work of an owner with too much waiting, and runs all the rest', async () => {
  const limits = { total: 3, per_owner: 2, waiting_per_owner: 4 }
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 40 }), fc.scheduler(), async (owners, s) => {
      const inSlot = createSlots(limits)
      const running = new Map<string, number>()
      const all = () => [...running.values()].reduce((sum, each) => sum + each, 0)
      let [done, refused] = [0, 0]
      const works = owners.map((owner) =>
        inSlot(owner, async () => {
          running.set(owner, (running.get(owner) ?? 0) + 1)
          assert.ok(all() <= limits.total && running.get(owner)! <= limits.per_owner)
          await s.schedule(Promise.resolve())
          running.set(owner, running.get(owner)! - 1)
          done++
        }).catch((error) => {
          assert.ok(error instanceof SlotsFull)
          refused++
        }),
      )
      await s.waitAll()
      while (done + refused < owners.length) await s.waitAll()
      await Promise.all(works)
      const byOwner = Map.groupBy(owners, (owner) => owner)
      const beyond = [...byOwner.values()].reduce((sum, own) => sum + Math.max(0, own.length - 2 - 4), 0)
      assert.ok(refused >= beyond && done >= owners.length - beyond - limits.total * limits.per_owner)
      assert.equal(all(), 0)
    }),
  )
})

test('releases the slot of work that fails', async () => {
  const inSlot = createSlots({ total: 1, per_owner: 1, waiting_per_owner: 0 })
  await assert.rejects(
    inSlot('a', () => Promise.reject(new Error('no'))),
    /no/,
  )
  assert.equal(await inSlot('b', async () => 1), 1)
})
