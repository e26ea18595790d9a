/** The state of a running history, and how a tick runs and is checked. */
import { systemClock } from '../lib/clock.ts'
import { type Random, seededRandom } from '../lib/random.ts'
import { wakeAtStart } from '../reconcilers.ts'
import { chance } from './chance.ts'
import { type Client, newClient } from './client.ts'
import { chooseFault, type Fault } from './faults.ts'
import { createHistory, type History } from './history.ts'
import { changesAndEvents, rowsHold, type Violation } from './invariants.ts'
import { createLedger, type Ledger } from './ledger.ts'
import type { Mutant } from './mutants.ts'
import { startWorker, type Worker } from './worker.ts'
import type { SimulatedWorld, Tenant } from './world.ts'

export type Options = {
  seed: number
  /** Ticks with faults. */
  steps: number
  /** Whether clients create webhooks, which are sent to receivers. Default: true. */
  receivers?: boolean
  /** Whether a script replaces the random ticks. */
  isScenario?: boolean
  /** The mutant that the history should detect. */
  mutant?: Mutant
}

export type Run = {
  readonly world: SimulatedWorld
  readonly options: Options
  /** For the choices of the simulation. The control plane has another source, so neither depends on the other. */
  readonly random: Random
  readonly history: History
  readonly ledger: Ledger
  readonly clients: Client[]
  readonly workers: [Worker, Worker]
  /** Whether hints can be lost: only with the short resync interval. */
  readonly losesHints: boolean
  /** Whether faults occur. */
  faulty: boolean
  /** The instance of a pass that continues after its lease has expired: nothing of the pass may be recorded. */
  overdue: string | null
  ticks: number
  faults: number
}

/** Percentage of ticks with a fault. */
const FAULTY = 25
/** Real time limit of a tick. Nothing here waits for real time, so a tick that takes longer hangs. */
const TICK_MS = 60_000
/** Rows are checked after each tick that changed an instance, and every few ticks. */
const ROWS_EVERY = 10
/** Resync interval in seconds: of a real driver, and of the simulated one. */
const RESYNC_SECONDS = { losing: 30, counting: 3_600 }

/** A violated invariant. The message has the violations, the last ticks and the command that repeats the history. */
export class SimulationFailure extends Error {
  readonly violations: readonly Violation[]
  constructor(run: Run, violations: readonly Violation[]) {
    const { seed, steps, receivers = true, isScenario } = run.options
    const found = violations.slice(0, 10).map(({ invariant, what }) => `${invariant}: ${what}`)
    const again = isScenario
      ? 'npm test -- server/src/simulation/simulation.test.ts'
      : `npm run simulate -- --seed ${seed} --steps ${steps}${receivers ? '' : ' --no-receivers'}`
    super(
      `${found.join('\n')}\n\nThe last of ${run.ticks} ticks:\n${run.history.tail(40).join('\n')}\n\nAgain: ${again}`,
    )
    this.violations = violations
  }
}

export async function beginRun(world: SimulatedWorld, options: Options): Promise<Run> {
  const tenants: Tenant[] = await world.begin(options.seed, options.mutant ?? null)
  const losesHints = options.seed % 2 === 0
  world.resync_seconds = losesHints ? RESYNC_SECONDS.losing : RESYNC_SECONDS.counting
  const run: Run = {
    world,
    options,
    losesHints,
    faulty: true,
    overdue: null,
    ticks: 0,
    faults: 0,
    random: seededRandom(options.seed ^ 0x51ed270b),
    history: createHistory(),
    ledger: createLedger(),
    clients: tenants.map(newClient),
    workers: [startWorker(world, 'worker-1'), startWorker(world, 'worker-2')],
  }
  await wakeAll(world)
  return run
}

export const faultOf = (run: Run, kinds: readonly Fault['kind'][]): Fault | null =>
  run.faulty && chance(run.random, FAULTY) ? chooseFault(run.random, kinds) : null

export function fail(run: Run, invariant: string, what: string): never {
  throw new SimulationFailure(run, [{ invariant, what }])
}

/** Runs a tick, adds it to the history and checks the invariants. Returns false if there was nothing to do. */
export async function tick(run: Run, name: string, body: () => Promise<string | null>): Promise<boolean> {
  const { world, history } = run
  const commits = world.commits()
  const line = await inTime(body()).catch((error: Error) => {
    if (error instanceof SimulationFailure) throw error
    return fail(run, 'the simulation', error.stack ?? error.message)
  })
  if (line === null) return false
  run.ticks++
  const at = `${String(run.ticks).padStart(4)} ${world.clock.seconds().toFixed(1).padStart(8)} s`
  history.add(`${at}  ${name.padEnd(8)} ${line}`)
  const witnesses = world.commits() > commits ? await world.database.witnesses() : []
  const late = witnesses.filter(({ what, resource_id }) => what === 'instance' && resource_id === run.overdue)
  run.overdue = null
  const found: Violation[] = [
    ...world.doubleStarts().map((what) => ({ invariant: 'I1', what })),
    ...late.map(({ resource_id }) => ({ invariant: 'fence', what: `a pass without a lease changed ${resource_id}` })),
    ...changesAndEvents(witnesses),
    ...run.ledger.record(witnesses, world.receivers.receipts()),
    ...(witnesses.length > 0 || run.ticks % ROWS_EVERY === 0 ? await rowsHold(world.owner) : []),
  ]
  if (found.length > 0) throw new SimulationFailure(run, found)
  return true
}

/** Replaces a worker by a new process. The first worker's process also serves the API. */
export async function restart(run: Run, index: 0 | 1): Promise<void> {
  const { world, workers } = run
  await workers[index].end()
  const number = Math.max(...workers.map(({ name }) => Number(name.split('-')[1])))
  workers[index] = startWorker(world, `worker-${number + 1}`)
  if (index === 0) world.clearCaches()
  if (run.losesHints) world.hints.length = 0
  await wakeAll(world)
}

async function inTime<T>(work: Promise<T>): Promise<T> {
  const late = new AbortController()
  const never = systemClock.sleep(TICK_MS, late.signal).then(() => {
    if (!late.signal.aborted) throw new Error('the tick hangs')
    return work
  })
  try {
    return await Promise.race([work, never])
  } finally {
    late.abort()
  }
}

/** Wakes the keys that a start wakes, without the job that uses real dates. */
async function wakeAll(world: SimulatedWorld): Promise<void> {
  await wakeAtStart(world.deps)
  await world.owner`delete from work where kind = 'job' and id = 'rotate-request-log'`
}
