/** Every step of every reconciler × every fault, in each workflow that reaches the step; see run.ts. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { STEPS } from '../instances/decide.ts'
import { KINDS } from './kinds.ts'
import { CALLS } from './machines.ts'
import { runWorkflow } from './run.ts'
import { runSystemKey, systemKeys } from './system.ts'
import { createMatrixWorld } from './world.ts'

const world = await createMatrixWorld()
const systemWorld = await createMatrixWorld()
const keys = await systemKeys(systemWorld)
after(() => Promise.all([world.close(), systemWorld.close()]))

describe('the matrix', () => {
  const steps = new Set<string>()
  const calls = new Set<string>()
  const kinds = new Set<string>()
  let count = 0

  for (const [kind, workflow] of KINDS.flatMap((each) => each.workflows.map((workflow) => [each, workflow] as const))) {
    test(workflow.name, async (context) => {
      const { cells, findings } = await runWorkflow(world, kind, workflow)
      for (const { step, point } of cells) {
        steps.add(step)
        calls.add(point)
      }
      kinds.add(kind.name)
      count += cells.length
      context.diagnostic(`${cells.length} cells: ${[...new Set(cells.map(({ step }) => step))].join(', ')}`)
      assert.deepEqual(findings, [])
    })
  }

  for (const key of keys) {
    test(key, async (context) => {
      const { cells, findings } = await runSystemKey(systemWorld, key)
      for (const { point } of cells) calls.add(point)
      kinds.add(key.split(' ')[0]!)
      count += cells.length
      context.diagnostic(`${cells.length} cells: ${[...new Set(cells.map(({ point }) => point))].join(', ')}`)
      assert.deepEqual(findings, [])
    })
  }

  test('covers every step, every driver call and every reconciler', (context) => {
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
