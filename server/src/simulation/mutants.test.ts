/** The simulation detects each mutant. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { MUTANTS, type MutantName } from './mutants.ts'
import { SimulationFailure } from './run.ts'
import { simulate } from './simulate.ts'
import { openWorld } from './world.ts'

/** The invariant that detects each mutant, and the maximum number of histories. */
const DETECTED_BY: Record<MutantName, { invariant: string; within: number }> = {
  lost_wake: { invariant: 'wakes', within: 20 },
  double_start: { invariant: 'I1', within: 30 },
  no_fence: { invariant: 'fence', within: 20 },
  missing_event: { invariant: 'I6', within: 10 },
  wrong_event: { invariant: 'I6', within: 10 },
  lost_delivery: { invariant: 'deliveries', within: 10 },
  late_event: { invariant: 'I6', within: 10 },
}

const world = await openWorld()
after(() => world.close())

for (const [name, { invariant, within }] of Object.entries(DETECTED_BY)) {
  test(`detects ${name} by ${invariant}`, async (context) => {
    for (let seed = 1; seed <= within; seed++) {
      const failure = await simulate(world, { seed, steps: 200, mutant: MUTANTS[name as MutantName] }).then(
        () => null,
        (error: unknown) => error,
      )
      if (failure === null) continue
      assert.ok(failure instanceof SimulationFailure, String(failure))
      assert.ok(
        failure.violations.some((violation) => violation.invariant === invariant),
        failure.message,
      )
      assert.match(failure.message, new RegExp(`^${invariant}: `, 'm'))
      assert.match(failure.message, new RegExp(`npm run simulate -- --seed ${seed} `))
      return context.diagnostic(`by seed ${seed}: ${failure.message.split('\n', 1)[0]}`)
    }
    assert.fail(`not detected in ${within} histories`)
  })
}
