/**
 * One history from one seed: first clients, engines, machines and time in any order, with faults; then none, and
 * everything must come to where it is wanted; at the end everybody leaves, and nothing may be left.
 *
 * It is serial: one tick after the other, each to its end or to the point at which it stands still. What comes next is
 * the seed's choice alone, so a history repeats exactly.
 */
import { weighted } from './chance.ts'
import type { Mutant } from './mutants.ts'
import { drain, retryUnanswered, sweepUp, teardown } from './rest.ts'
import { beginRun, type Options, type Run, tick } from './run.ts'
import { createScript, type Scenario } from './script.ts'
import { TICKS, TICKS_WITH_RECEIVERS } from './ticks.ts'
import type { SimulatedWorld } from './world.ts'

/** `requests`: that receivers of webhooks got. `hash`: of all that happened and of what stood in the database at rest; the same for the same seed and code. */
export type Report = { seed: number; hash: string; ticks: number; faults: number; events: number; requests: number }

/** Runs a history. Rejects with `SimulationFailure` when something does not hold. */
export async function simulate(world: SimulatedWorld, options: Options): Promise<Report> {
  const run = await beginRun(world, options)
  await limitUse(run)
  while (run.ticks < options.steps) {
    const { name, happens } = weighted(run.random, options.receivers === false ? TICKS : TICKS_WITH_RECEIVERS)
    await tick(run, name, () => happens(run))
  }
  return finish(run)
}

/** Runs a scenario: its script in place of random ticks, and then the end of every history. Rejects like `simulate`. */
export async function simulateScenario(world: SimulatedWorld, scenario: Scenario, mutant?: Mutant): Promise<Report> {
  const run = await beginRun(world, { seed: 1, steps: 0, ...(mutant && { mutant }) })
  await scenario.play(createScript(run))
  return finish(run)
}

/** The second half of a history, without faults: everything is settled and removed, and nothing may be left. */
async function finish(run: Run): Promise<Report> {
  const { world, options } = run
  run.faulty = false
  world.receivers.heal()
  await retryUnanswered(run)
  await drain(run)
  const [counted] = await world.owner<{ events: number }[]>`select count(*) as events from events`
  const hash = await run.history.hash(world.owner)
  await sweepUp(run)
  await teardown(run)
  return {
    seed: options.seed,
    hash,
    ticks: run.ticks,
    faults: run.faults,
    events: counted!.events,
    requests: run.ledger.received(),
  }
}

/** Few instances in each environment: so much happens to each. */
async function limitUse({ world, random }: Run): Promise<void> {
  const quota = { instances: 1 + random.integer(3), vcpus: 2 + random.integer(8), public_ips: 1 + random.integer(2) }
  await world.owner`
    update environment_heads h set quota = ${quota} from environments e
    where e.id = h.environment_id and e.project_id is not null`
}
