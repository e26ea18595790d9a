/**
 * Faults fall at the points where a tick leaves the process: each statement, each commit, each call of a driver, each
 * request to a receiver. A tick
 * carries its fault with it through its awaits, so several that are under way do not meet each other's.
 *
 * A crash is an error that every later point of the tick throws again: whatever the code does about it, nothing of it
 * reaches the world any more. A transaction that was open is rolled back, as the server would.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { CapacityError, InvalidSpecError, TransientError } from '../drivers/driver.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import type { Random } from '../lib/random.ts'
import type { DriverMethod } from '../testing/faulty-driver.ts'

/** The process is gone. */
class Crash extends Error {
  constructor() {
    super('the process ended here')
  }
}

/**
 * What goes wrong in a tick. `error`: this one call fails. `crash`: the process ends. `pause`: the process stands still,
 * perhaps for longer than its lease. `after`: the call has had its effect, and its answer is lost.
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

/** A tick that is under way. */
export type Tick = {
  points: number
  fault: Fault | null
  /** Where the fault fell, for the history. */
  fell: string | null
  isDead: boolean
  /** Transactions that are open: a pause within would hold locks that the server does not give back. */
  open: number
  /** Calls that are under way. */
  busy: number
  /** `isLong`: until another worker has taken its key over, in the time of faults. */
  paused: { isLong: boolean; resumed: Promise<void>; resume(): void } | null
  /** Called when the process is paused: none of its work is in progress. */
  onPause: () => void
}

const current = new AsyncLocalStorage<Tick>()

export const newTick = (fault: Fault | null): Tick => {
  return { points: 0, fault, fell: null, isDead: false, open: 0, busy: 0, paused: null, onPause: () => {} }
}

/** Runs what the tick does. Its points are those of this call and of all that it awaits. */
export const during = <T>(tick: Tick, body: () => Promise<T>): Promise<T> => current.run(tick, body)
export const currentTick = (): Tick | undefined => current.getStore()

/** A fault at one of the first points; most ticks have a dozen. */
export function drawFault(random: Random, kinds: readonly Fault['kind'][]): Fault {
  return {
    kind: kinds[random.integer(kinds.length)]!,
    at: 1 + random.integer(random.integer(2) === 0 ? 5 : 12),
    moment: random.integer(2) === 0 ? 'before' : 'after',
    variant: random.integer(12),
  }
}

/** Passes a point of the tick under way: carries the effect out, unless the tick's fault falls here. */
export async function pass<T>(point: Point, effect: () => Promise<T>): Promise<T> {
  const tick = current.getStore()
  if (!tick) return effect()
  // Who stands still does so with all that it does at the same time.
  if (tick.paused) await tick.paused.resumed
  if (tick.isDead) throw new Crash()
  tick.points++
  const { fault } = tick
  if (!fault || tick.points < fault.at || !fits(fault, tick, point)) return carryOut(tick, effect)
  tick.fault = null
  tick.fell = `${fault.kind} ${fault.kind === 'pause' ? 'before' : fault.moment} ${point.what} (point ${tick.points})`
  if (fault.kind === 'pause') {
    await pause(tick, fault.variant >= LONG)
    return carryOut(tick, effect)
  }
  if (fault.moment === 'after') await carryOut(tick, effect)
  if (fault.kind === 'error') throw errorAt(point, fault)
  tick.isDead = true
  throw new Crash()
}

async function carryOut<T>(tick: Tick, effect: () => Promise<T>): Promise<T> {
  tick.busy++
  try {
    return await effect()
  } finally {
    tick.busy--
    if (tick.paused && tick.busy === 0) tick.onPause()
  }
}

/** Variants of a pause from which on it is a long one, and from which on it falls right before an effect. */
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

/** No pause within a transaction; and many right before an effect, where it matters most what happens meanwhile. */
function fits({ kind, variant, point }: Fault, tick: Tick, { what }: Point): boolean {
  if (point !== undefined && point !== what) return false
  return kind !== 'pause' || (tick.open === 0 && (variant < AT_EFFECT || EFFECTS.includes(what)))
}

async function pause(tick: Tick, isLong: boolean): Promise<void> {
  const { promise: resumed, resolve: resume } = Promise.withResolvers<void>()
  tick.paused = {
    ...{ isLong, resumed },
    resume() {
      tick.paused = null
      resume()
    },
  }
  if (tick.busy === 0) tick.onPause()
  await resumed
  if (tick.isDead) throw new Crash()
}

function errorAt({ what }: Point, { moment, variant }: Fault): Error {
  if (what === 'statement' || what === 'transaction' || what === 'commit') {
    return new DatabaseUnavailableError('a fault of the simulation')
  }
  if (what === 'request') return Object.assign(new Error('the connection is gone'), { code: 'ECONNRESET' })
  const mayRefuse = moment === 'before' && (what === 'create' || what === 'start')
  if (mayRefuse && variant === 0) return new InvalidSpecError('simulated_failure', 'It cannot be made here.')
  if (mayRefuse && variant <= 3) return new CapacityError('host_full', 'The host has no room.')
  return new TransientError('timeout', 'The hypervisor does not answer.')
}
