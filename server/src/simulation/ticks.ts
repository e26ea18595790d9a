/** THE LIST of ticks: what can happen next. */
import type { Claim } from '../engine/work.ts'
import { chance, pick } from './chance.ts'
import { machineFault } from './machines.ts'
import { fail, faultOf, type Run, restart } from './run.ts'
import { callOfList } from './send.ts'
import type { PassResult, Worker } from './worker.ts'
import { deliverHint } from './world.ts'

/** Executes the tick and returns its line of the history; null when there is nothing to do. */
export type TickBody = (run: Run) => Promise<string | null>

type Weighted = readonly [weight: number, tick: { name: string; run: TickBody }]

export const TICKS: readonly Weighted[] = [
  [34, { name: 'client', run: callOfList }],
  [50, { name: 'engine', run: (run) => work(run, pick(run.random, run.workers)) }],
  [5, { name: 'engine', run: (run) => resume(run, pick(run.random, run.workers)) }],
  [12, { name: 'time', run: advanceTime }],
  [2, { name: 'clock', run: advanceTestClock }],
  [6, { name: 'hint', run: hint }],
  [2, { name: 'machine', run: failMachine }],
  [0.3, { name: 'process', run: killProcess }],
]

/** The same ticks, with receivers of webhooks. */
export const TICKS_WITH_RECEIVERS: readonly Weighted[] = [
  ...TICKS,
  [8, { name: 'receiver', run: async ({ world, random }) => world.receivers.change(random) }],
]

/** A worker claims due keys, or runs one pass of a claimed key. */
export async function work(run: Run, worker: Worker): Promise<string | null> {
  if (worker.held.length === 0) {
    const claims = await worker.claim()
    return claims.length === 0 ? null : `${worker.name} claims ${claims.map(({ id }) => id).join(' ')}`
  }
  const claimed = pick(run.random, worker.held)
  // A crash ends the paused passes of the worker, and they are the rarest state.
  const kinds =
    worker.paused.length > 0 ? (['error', 'pause'] as const) : (['error', 'crash', 'pause', 'pause'] as const)
  run.overdue = (await worker.hasLost(claimed)) ? claimed.id : null
  return passLine(run, worker, await worker.begin(claimed, faultOf(run, kinds)))
}

/** Resumes a paused pass. */
export async function resume(run: Run, worker: Worker): Promise<string | null> {
  if (worker.paused.length === 0) return null
  const index = run.random.integer(worker.paused.length)
  const { claimed, tick } = worker.paused[index]!
  const hasLost = await worker.hasLost(claimed)
  if (run.faulty && tick.paused!.isLong && !hasLost) return null
  run.overdue = hasLost ? claimed.id : null
  return passLine(run, worker, await worker.resume(index))
}

/** The line of a pass that has ended or paused; after a crash the process is restarted. */
export async function passLine(
  run: Run,
  worker: Worker,
  { claimed, outcome, faultAt, points }: PassResult,
): Promise<string> {
  if (faultAt) run.faults++
  if (outcome === 'crashed') await restart(run, run.workers.indexOf(worker) as 0 | 1)
  const result =
    typeof outcome === 'string' ? outcome : 'error' in outcome ? outcome.error : `${outcome.after_seconds} s`
  if (typeof outcome === 'object') await checkWake(run, claimed)
  const where = faultAt ? `, ${faultAt}` : ''
  return `${worker.name} ${claimed.kind} ${claimed.id} → ${result} (${points} points${where})`
}

/** A key that was woken since its claim must be due after its release. */
async function checkWake(run: Run, { kind, id, lease, wakes }: Claim): Promise<void> {
  const lost = await run.world.owner`
    select from work w join environments e on e.id = w.environment_id
    where kind = ${kind} and w.id = ${id} and lease = ${lease} and wakes <> ${wakes} and leased_until is null
      and (due_at > environment_now(e) or not_before > now())`
  if (lost.count > 0) fail(run, 'wakes', `${kind} ${id} was woken during its pass and is not due`)
}

async function advanceTime({ random, world, workers }: Run): Promise<string> {
  const seconds = pick(random, [0.2, 1, 1, 2, 4, 6, 9, 16, 40, ...(chance(random, 5) ? [3_600] : [])])
  await world.advance(seconds)
  // A running process renews its leases; a paused one loses them.
  for (const worker of workers) if (worker.paused.length === 0 || chance(random, 15)) await worker.renew()
  return `${seconds} s`
}

/** Advances and freezes the clock of a test environment. */
async function advanceTestClock({ random, world, clients }: Run): Promise<string> {
  const { environment_id } = pick(
    random,
    clients.filter(({ mode }) => mode === 'test'),
  )
  const seconds = pick(random, [0, 1, 5, 10, 30, 100])
  await world.owner`
    update environments e set clock_frozen_at = environment_now(e) + make_interval(secs => ${seconds})
    where id = ${environment_id}`
  return `${environment_id} is advanced by ${seconds} s and frozen`
}

/** Delivers or loses a driver's hint. */
export async function hint({ world, random, losesHints, faulty }: Run): Promise<string | null> {
  const id = world.hints.shift()
  if (id === undefined) return null
  if (losesHints && faulty && chance(random, 40)) return `of ${id} is lost`
  await deliverHint(world, id)
  return `of ${id}`
}

async function failMachine({ world, random }: Run): Promise<string | null> {
  const failed = await machineFault(world.owner, random)
  if (!failed) return null
  world.hints.push(failed.id)
  return `${failed.id} ${failed.what}`
}

async function killProcess(run: Run): Promise<string> {
  const index = run.random.integer(2) as 0 | 1
  const { name } = run.workers[index]
  await restart(run, index)
  return `${name} is killed, and ${run.workers[index].name} starts`
}
