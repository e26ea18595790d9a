/** SIMULATE_SEEDS histories (see `npm run simulate`), repeated histories, and the scenarios. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { MUTANTS, type MutantName } from './mutants.ts'
import { SimulationFailure } from './run.ts'
import { SCENARIOS } from './scenarios.ts'
import { type Report, simulate, simulateScenario } from './simulate.ts'
import { openWorld } from './world.ts'

const { SIMULATE_SEED, SIMULATE_SEEDS, SIMULATE_STEPS, SIMULATE_MUTANT, SIMULATE_RECEIVERS } = process.env
const first = Number(SIMULATE_SEED ?? 1)
const count = Number(SIMULATE_SEEDS ?? 20)
const steps = Number(SIMULATE_STEPS ?? 200)
const mutant = SIMULATE_MUTANT ? MUTANTS[SIMULATE_MUTANT as MutantName] : undefined
const receivers = SIMULATE_RECEIVERS !== 'false'
/** The run ends after this number of failures. */
const MAX_FAILURES = 20
const isCommand = SIMULATE_SEEDS !== undefined

const world = await openWorld()
after(() => world.close())

test(`the invariants hold in ${count} histories from seed ${first}`, async (context) => {
  const begin = performance.now()
  const sum = { ticks: 0, faults: 0, events: 0, requests: 0 }
  const failures: string[] = []
  for (let done = 0; done < count && failures.length < MAX_FAILURES; done++) {
    const report = await simulate(world, { seed: first + done, steps, receivers, ...(mutant && { mutant }) }).catch(
      (error: Error) => {
        failures.push(error.message)
        if (isCommand) process.stderr.write(`${error.message}\n`)
      },
    )
    if (!report) continue
    for (const name of ['ticks', 'faults', 'events', 'requests'] as const) sum[name] += report[name]
    if (isCommand && (count <= 10 || (done + 1) % 100 === 0)) printProgress(report, done + 1, begin)
  }
  assert.equal(failures.length, 0, failures.join('\n\n'))
  const seconds = (performance.now() - begin) / 1000
  context.diagnostic(
    `${sum.ticks} ticks, ${sum.faults} faults, ${sum.events} events, ${sum.requests} requests to receivers`,
  )
  context.diagnostic(`${(count / seconds).toFixed(2)} seeds/s`)
  assert.ok(sum.events >= count && sum.faults >= count, 'the histories have too few events and faults')
  assert.ok(!receivers || sum.requests >= count, 'webhooks have received too few requests')
})

/** Prints the progress. */
function printProgress({ seed, hash }: Report, done: number, begin: number): void {
  const seconds = (performance.now() - begin) / 1000
  process.stderr.write(`seed ${seed}: ${hash}, ${(done / seconds).toFixed(2)} seeds/s\n`)
}

test('a seed repeats its history, and other seeds have other histories', { skip: isCommand }, async () => {
  const seeds = [1, 2, 3, 4, 5]
  const hashes = async () => {
    const found: string[] = []
    for (const seed of seeds) found.push((await simulate(world, { seed, steps })).hash)
    return found
  }
  const once = await hashes()
  // In the reverse order: a history must not depend on the previous one.
  seeds.reverse()
  assert.deepEqual((await hashes()).reverse(), once)
  assert.equal(new Set(once).size, seeds.length)
})

for (const scenario of SCENARIOS) {
  test(scenario.name, { skip: isCommand }, async () => {
    await simulateScenario(world, scenario, scenario.variant)
  })
  const { detects } = scenario
  if (detects === undefined) continue
  test(`detects by ${detects.invariant} a product without it: ${scenario.name}`, { skip: isCommand }, async () => {
    await assert.rejects(simulateScenario(world, scenario, detects.mutant), (error) => {
      assert.ok(error instanceof SimulationFailure, String(error))
      assert.ok(
        error.violations.some(({ invariant }) => invariant === detects.invariant),
        error.message,
      )
      return true
    })
  })
}
