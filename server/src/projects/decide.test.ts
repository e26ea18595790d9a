import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decide, type Remains } from './decide.ts'

const amount = fc.nat(3)
const remains = fc.record({
  open: amount,
  instances: amount,
  machines: fc.array(fc.string({ minLength: 1 }), { maxLength: 3 }),
  terminated: amount,
  images: amount,
  webhooks: amount,
})

/** What remains after a step, and after the reconcilers that it woke. */
function after(before: Remains): Remains {
  switch (decide(before).do) {
    case 'close':
      return { ...before, open: 0, webhooks: 0 }
    case 'wait':
      return {
        ...before,
        instances: 0,
        machines: before.machines ?? [],
        terminated: before.terminated + before.instances,
      }
    case 'delete_machines':
      return { ...before, machines: [] }
    case 'delete_images':
      return { ...before, images: 0 }
    case 'purge':
      return { ...before, terminated: 0 }
  }
}

test('reaches the end from any state, in at most six steps', () => {
  fc.assert(
    fc.property(remains, (from) => {
      let left: Remains = from
      for (let steps = 0; steps < 6; steps++) left = after(left)
      assert.deepEqual(left, { open: 0, instances: 0, machines: [], terminated: 0, images: 0, webhooks: 0 })
      assert.deepEqual(decide(left), { do: 'purge' })
    }),
  )
})

test('purges no row while a machine can exist, and deletes no image that a row of an instance refers to', () => {
  fc.assert(
    fc.property(remains, (left) => {
      const step = decide(left)
      if (step.do === 'purge') assert.deepEqual([left.open, left.instances, left.machines], [0, 0, []])
      if (step.do === 'delete_images') assert.deepEqual([left.instances, left.machines, left.terminated], [0, [], 0])
      if (step.do === 'delete_machines') assert.equal(left.instances, 0)
    }),
  )
  const unknown = { open: 0, instances: 0, machines: null, terminated: 0, images: 0, webhooks: 0 }
  assert.deepEqual(decide(unknown), { do: 'wait' })
})
