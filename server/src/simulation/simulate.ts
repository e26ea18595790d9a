/**
 * One history from one seed: first ticks of clients, engines, machines and clocks in any order, with faults. Then faults stop,
 * and every desired state must be reached. In the end everything is terminated, and nothing may be left.
 *
 * A history is serial: each tick runs to its end or to the point where it is paused. Only the seed chooses the next tick, so a
 * history can be repeated exactly.
 */
import { weighted } from './chance.ts'
import type { Mutant } from './mutants.ts'
import { beginRun, type Options, type Run, tick } from './run.ts'
import { createScript, type Scenario } from './script.ts'
import { drain, retryWithoutResponse, sweepUp, teardown } from './settle.ts'
import { TICKS, TICKS_WITH_RECEIVERS } from './ticks.ts'
import type { SimulatedWorld } from './world.ts'

/** `requests`: number of requests to receivers. `hash`: of all ticks and of the settled database; the same seed and code give the same hash. */
export type Report = { seed: number; hash: string; ticks: number; faults: number; events: number; requests: number }

/** Runs a history. Rejects with `SimulationFailure` when an invariant is violated. */
export async function simulate(world: SimulatedWorld, options: Options): Promise<Report> {
  const run = await beginRun(world, options)
  await limitUse(run)
  while (run.ticks < options.steps) {
    const { name, run: body } = weighted(run.random, options.receivers === false ? TICKS : TICKS_WITH_RECEIVERS)
    await tick(run, name, () => body(run))
  }
  return finish(run)
}

/** Runs a scenario: its script in place of random ticks, and then the end of every history. Rejects like `simulate`. */
export async function simulateScenario(world: SimulatedWorld, scenario: Scenario, mutant?: Mutant): Promise<Report> {
  const run = await beginRun(world, { seed: 1, steps: 0, isScenario: true, ...(mutant && { mutant }) })
  await scenario.play(createScript(run))
  return finish(run)
}

/** The second half of a history, without faults: everything is settled and removed, and nothing may be left. */
async function finish(run: Run): Promise<Report> {
  const { world, options } = run
  run.faulty = false
  world.receivers.heal()
  await retryWithoutResponse(run)
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

/** Small quotas: few instances in each environment, so each has many requests and faults. */
async function limitUse({ world, random }: Run): Promise<void> {
  const quota = { instances: 1 + random.integer(3), vcpus: 2 + random.integer(8), public_ips: 1 + random.integer(2) }
  await world.owner`
    update environment_heads h set quota = ${quota} from environments e
    where e.id = h.environment_id and e.project_id is not null`
}
