/** Every step of every reconciler × every fault, for each workflow that comes to the step; see run.ts. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { STEPS } from '../instances/decide.ts'
import { CALLS } from './machines.ts'
import { runWorkflow } from './run.ts'
import { runSystemKey, systemKeys } from './system.ts'
import { WORKFLOWS } from './workflows.ts'
import { createMatrixWorld } from './world.ts'

const world = await createMatrixWorld()
const swept = await createMatrixWorld()
const keys = await systemKeys(swept)
after(() => Promise.all([world.close(), swept.close()]))

describe('the matrix', () => {
  const steps = new Set<string>()
  const calls = new Set<string>()
  const kinds = new Set<string>()
  let count = 0

  for (const workflow of WORKFLOWS) {
    test(workflow.name, async (context) => {
      const { cells, findings } = await runWorkflow(world, workflow)
      for (const { step, point } of cells) {
        steps.add(step)
        calls.add(point)
      }
      kinds.add(workflow.thing)
      count += cells.length
      context.diagnostic(`${cells.length} cells: ${[...new Set(cells.map(({ step }) => step))].join(', ')}`)
      assert.deepEqual(findings, [])
    })
  }

  for (const key of keys) {
    test(key, async (context) => {
      const { cells, findings } = await runSystemKey(swept, key)
      for (const { point } of cells) calls.add(point)
      kinds.add(key.split(' ')[0]!)
      count += cells.length
      context.diagnostic(`${cells.length} cells: ${[...new Set(cells.map(({ point }) => point))].join(', ')}`)
      assert.deepEqual(findings, [])
    })
  }

  test('has met every step, every call of a driver and every reconciler', (context) => {
    context.diagnostic(`${count} cells`)
    assert.deepEqual(
      STEPS.filter((step) => !steps.has(step)),
      [],
    )
    assert.deepEqual(
      world.kinds.filter((kind) => !kinds.has(kind)),
      [],
    )
    assert.deepEqual(
      CALLS.filter((call) => !calls.has(`driver ${call}`)),
      [],
    )
  })
})
