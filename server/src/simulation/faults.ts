/**
 * Faults occur at the points where a tick leaves the process: each statement, each commit, each driver call, each request to a
 * receiver. A fault belongs to the asynchronous context of its tick, so concurrent ticks do not share one.
 *
 * A crash is an error that every later point of the tick throws again: nothing that the code does afterwards has an effect
 * outside the process. An open transaction is rolled back, as the server would do.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { CapacityError, InvalidSpecError, TransientError } from '../drivers/driver.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import type { Random } from '../lib/random.ts'
import type { DriverMethod } from '../testing/faulty-driver.ts'

/** The process has ended. */
class Crash extends Error {
  constructor() {
    super('the process ended here')
  }
}

/**
 * The fault of a tick. `error`: this one call fails. `crash`: the process ends. `pause`: the process pauses, possibly for longer
 * than its lease. `after`: the call has taken effect, and its result is lost.
 */
export type Fault = {
  kind: 'error' | 'crash' | 'pause'
  at: number
  moment: 'before' | 'after'
  variant: number
  /** Only at a point of this kind; a scenario names it. */
  point?: Point['what']
}

export type Point = { what: 'statement' | 'transaction' | 'commit' | 'request' } | { what: DriverMethod }

/** A tick in progress. */
export type Tick = {
  points: number
  fault: Fault | null
  /** The fault and its point, for the history; null while it has not occurred. */
  faultAt: string | null
  processEnded: boolean
  /** Number of open transactions. A pause within one would hold locks that the server does not release. */
  open: number
  /** Number of calls in progress. */
  busy: number
  /** `isLong`: until another worker has taken its key over, in the time of faults. */
  paused: { isLong: boolean; resumed: Promise<void>; resume(): void } | null
  /** Called when the process is paused: none of its work is in progress. */
  onPause: () => void
}

const current = new AsyncLocalStorage<Tick>()

export const newTick = (fault: Fault | null): Tick => {
  return { points: 0, fault, faultAt: null, processEnded: false, open: 0, busy: 0, paused: null, onPause: () => {} }
}

/** Runs the body of a tick. Its points are those of this call and of everything that it awaits. */
export const during = <T>(tick: Tick, body: () => Promise<T>): Promise<T> => current.run(tick, body)
export const currentTick = (): Tick | undefined => current.getStore()

/** A fault at one of the first points. Most ticks have a dozen points. */
export function chooseFault(random: Random, kinds: readonly Fault['kind'][]): Fault {
  return {
    kind: kinds[random.integer(kinds.length)]!,
    at: 1 + random.integer(random.integer(2) === 0 ? 5 : 12),
    moment: random.integer(2) === 0 ? 'before' : 'after',
    variant: random.integer(12),
  }
}

/** A point of the current tick: executes the effect, with the fault of the tick if it occurs here. */
export async function atPoint<T>(point: Point, effect: () => Promise<T>): Promise<T> {
  const tick = current.getStore()
  if (!tick) return effect()
  // A pause holds all concurrent calls of the process.
  if (tick.paused) await tick.paused.resumed
  if (tick.processEnded) throw new Crash()
  tick.points++
  const { fault } = tick
  if (!fault || tick.points < fault.at || !fits(fault, tick, point)) return execute(tick, effect)
  tick.fault = null
  tick.faultAt = `${fault.kind} ${fault.kind === 'pause' ? 'before' : fault.moment} ${point.what} (point ${tick.points})`
  if (fault.kind === 'pause') {
    await pause(tick, fault.variant >= LONG)
    return execute(tick, effect)
  }
  if (fault.moment === 'after') await execute(tick, effect)
  if (fault.kind === 'error') throw errorAt(point, fault)
  tick.processEnded = true
  throw new Crash()
}

async function execute<T>(tick: Tick, effect: () => Promise<T>): Promise<T> {
  tick.busy++
  try {
    return await effect()
  } finally {
    tick.busy--
    if (tick.paused && tick.busy === 0) tick.onPause()
  }
}

/** The lowest variant of a pause that is long, and of one that occurs immediately before an effect. */
const LONG = 4
const AT_EFFECT = 6
const EFFECTS: readonly Point['what'][] = [
  'create',
  'start',
  'kill',
  'powerDown',
  'delete',
  'setPublicAddress',
  'request',
]

/** No pause within a transaction. Many pauses occur immediately before an effect, where the state can change most. */
function fits({ kind, variant, point }: Fault, tick: Tick, { what }: Point): boolean {
  if (point !== undefined && point !== what) return false
  return kind !== 'pause' || (tick.open === 0 && (variant < AT_EFFECT || EFFECTS.includes(what)))
}

async function pause(tick: Tick, isLong: boolean): Promise<void> {
  const { promise: resumed, resolve: resume } = Promise.withResolvers<void>()
  tick.paused = {
    isLong,
    resumed,
    resume() {
      tick.paused = null
      resume()
    },
  }
  if (tick.busy === 0) tick.onPause()
  await resumed
  if (tick.processEnded) throw new Crash()
}

function errorAt({ what }: Point, { moment, variant }: Fault): Error {
  if (what === 'statement' || what === 'transaction' || what === 'commit') {
    return new DatabaseUnavailableError('a fault of the simulation')
  }
  if (what === 'request') return Object.assign(new Error('the connection was reset'), { code: 'ECONNRESET' })
  const canReject = moment === 'before' && (what === 'create' || what === 'start')
  if (canReject && variant === 0) return new InvalidSpecError('simulated_failure', 'The host rejects the machine.')
  if (canReject && variant <= 3) return new CapacityError('host_full', 'The host has no capacity.')
  return new TransientError('timeout', 'The hypervisor does not respond.')
}
