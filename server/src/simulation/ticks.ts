/** THE LIST of what may happen next. */
import type { Claim } from '../engine/work.ts'
import { chance, pick } from './chance.ts'
import { machineFault } from './machines.ts'
import { fail, faultOf, type Run, restart } from './run.ts'
import { callOfList } from './send.ts'
import type { Stepped, Worker } from './worker.ts'
import { carryHint } from './world.ts'

/** Null: nothing of this is to be done now. */
export type Happens = (run: Run) => Promise<string | null>

type Weighted = readonly [weight: number, tick: { name: string; happens: Happens }]

export const TICKS: readonly Weighted[] = [
  [34, { name: 'client', happens: callOfList }],
  [50, { name: 'engine', happens: (run) => work(run, pick(run.random, run.workers)) }],
  [5, { name: 'engine', happens: (run) => resume(run, pick(run.random, run.workers)) }],
  [12, { name: 'time', happens: passTime }],
  [2, { name: 'clock', happens: moveTime }],
  [6, { name: 'hint', happens: hint }],
  [2, { name: 'machine', happens: accident }],
  [0.3, { name: 'process', happens: killProcess }],
]

/** The same, where there are receivers. */
export const TICKS_WITH_RECEIVERS: readonly Weighted[] = [
  ...TICKS,
  [8, { name: 'receiver', happens: async ({ world, random }) => world.receivers.change(random) }],
]

/** A worker claims what is due, or takes one step of what it has claimed. */
export async function work(run: Run, worker: Worker): Promise<string | null> {
  if (worker.held.length === 0) {
    const claims = await worker.claim()
    return claims.length === 0 ? null : `${worker.name} claims ${claims.map(({ id }) => id).join(' ')}`
  }
  const claimed = pick(run.random, worker.held)
  // Who crashes forgets its steps that stand still, and those are what is hard to come by.
  const kinds =
    worker.standing.length > 0 ? (['error', 'pause'] as const) : (['error', 'crash', 'pause', 'pause'] as const)
  run.overdue = (await worker.hasLost(claimed)) ? claimed.id : null
  return stepped(run, worker, await worker.begin(claimed, faultOf(run, kinds)))
}

/** A step that stands still goes on. */
export async function resume(run: Run, worker: Worker): Promise<string | null> {
  if (worker.standing.length === 0) return null
  const index = run.random.integer(worker.standing.length)
  const { claimed, tick } = worker.standing[index]!
  const hasLost = await worker.hasLost(claimed)
  if (run.faulty && tick.paused!.isLong && !hasLost) return null
  run.overdue = hasLost ? claimed.id : null
  return stepped(run, worker, await worker.resume(index))
}

/** The line of a pass that has ended or paused; after a crash the process is restarted. */
export async function stepped(run: Run, worker: Worker, { claimed, looked, fell, points }: Stepped): Promise<string> {
  if (fell) run.faults++
  if (looked === 'crashed') await restart(run, run.workers.indexOf(worker) as 0 | 1)
  const outcome = typeof looked === 'string' ? looked : 'error' in looked ? looked.error : `${looked.after_seconds} s`
  if (typeof looked === 'object') await checkWake(run, claimed)
  const where = fell ? `, ${fell}` : ''
  return `${worker.name} ${claimed.kind} ${claimed.id} → ${outcome} (${points} points${where})`
}

/** A key that was woken since its claim is due when it is given back. */
async function checkWake(run: Run, { kind, id, lease, wakes }: Claim): Promise<void> {
  const lost = await run.world.owner`
    select from work w join environments e on e.id = w.environment_id
    where kind = ${kind} and w.id = ${id} and lease = ${lease} and wakes <> ${wakes} and leased_until is null
      and (due_at > environment_now(e) or not_before > now())`
  if (lost.count > 0) fail(run, 'wakes', `${kind} ${id} was woken during its pass and is not due`)
}

async function passTime({ random, world, workers }: Run): Promise<string> {
  const seconds = pick(random, [0.2, 1, 1, 2, 4, 6, 9, 16, 40, ...(chance(random, 5) ? [3_600] : [])])
  await world.pass(seconds)
  // A process that is alive prolongs its leases; one that is stuck loses them.
  for (const worker of workers) if (worker.standing.length === 0 || chance(random, 15)) await worker.renew()
  return `${seconds} s pass`
}

/** A test environment's time is its owner's: it is set forward, and then stands. */
async function moveTime({ random, world, clients }: Run): Promise<string> {
  const { environment_id } = pick(
    random,
    clients.filter(({ mode }) => mode === 'test'),
  )
  const seconds = pick(random, [0, 1, 5, 10, 30, 100])
  await world.owner`
    update environments e set clock_frozen_at = environment_now(e) + make_interval(secs => ${seconds})
    where id = ${environment_id}`
  return `${environment_id} is set forward by ${seconds} s and stands`
}

/** What a driver has said is heard, or not. */
export async function hint({ world, random, losesHints, faulty }: Run): Promise<string | null> {
  const id = world.hints.shift()
  if (id === undefined) return null
  if (losesHints && faulty && chance(random, 40)) return `about ${id} is lost`
  await carryHint(world, id)
  return `about ${id}`
}

async function accident({ world, random }: Run): Promise<string | null> {
  const happened = await machineFault(world.owner, random)
  if (!happened) return null
  world.hints.push(happened.id)
  return `${happened.id} ${happened.what}`
}

async function killProcess(run: Run): Promise<string> {
  const index = run.random.integer(2) as 0 | 1
  const { name } = run.workers[index]
  await restart(run, index)
  return `${name} is killed, and ${run.workers[index].name} begins`
}
