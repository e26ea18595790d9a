/**
 * A worker of the engine whose claims and passes the simulation starts one at a time. A pass can pause between two points, so
 * that a request, the end of its lease or another worker comes between them.
 */
import { type Reconcilers, type StepResult, step } from '../engine/loop.ts'
import { type Claim, claim, LEASE_SECONDS, renewLeases } from '../engine/work.ts'
import { pools } from '../reconcilers.ts'
import { during, type Fault, newTick, type Tick } from './faults.ts'
import type { SimulatedWorld } from './world.ts'

/** More than the number of keys: the simulation chooses between keys that are due at the same time. */
const ALL = 1_000
/** Kinds that are not simulated: images are imported by processes. */
export const UNSIMULATED_KINDS = ['image']

/** How a pass ended, or that it is paused. `faultAt` names its fault and point. */
export type PassResult = {
  claimed: Claim
  outcome: StepResult | 'crashed' | 'paused'
  faultAt: string | null
  points: number
}

export type Worker = {
  name: string
  /** Claims without a pass yet. */
  held: Claim[]
  paused: { claimed: Claim; tick: Tick; done: Promise<StepResult> }[]
  claim(): Promise<Claim[]>
  begin(claimed: Claim, fault: Fault | null): Promise<PassResult>
  /** Continues a paused pass. */
  resume(index: number): Promise<PassResult>
  renew(): Promise<void>
  /** Whether another worker has taken over the key of this claim. */
  hasLost(claimed: Claim): Promise<boolean>
  /** Ends the process: paused passes never continue. */
  end(): Promise<void>
}

/** Lets responses of the database arrive. */
const nextTurn = () => new Promise((resolve) => setImmediate(resolve))

export function startWorker(world: SimulatedWorld, name: string): Worker {
  const { sql } = world.deps
  const all: Reconcilers = Object.assign({}, ...pools(world.deps).map((pool) => pool.reconcilers))
  const kinds = Object.keys(all).filter((kind) => !UNSIMULATED_KINDS.includes(kind))
  const held: Claim[] = []
  const paused: Worker['paused'] = []
  const claimedAt = new WeakMap<Claim, number>()

  async function settle(claimed: Claim, tick: Tick, done: Promise<StepResult>): Promise<PassResult> {
    const pause = new Promise<null>((resolve) => {
      tick.onPause = () => resolve(null)
      // A pass that pauses at its first point has paused before this runs.
      if (tick.paused && tick.busy === 0) resolve(null)
    })
    const outcome = await Promise.race([done, pause])
    if (outcome === null) paused.push({ claimed, tick, done })
    // No call of a pass that has ended overlaps the next tick.
    else while (tick.busy > 0) await nextTurn()
    const { faultAt, points } = tick
    return { claimed, faultAt, points, outcome: outcome === null ? 'paused' : tick.processEnded ? 'crashed' : outcome }
  }

  return {
    name,
    held,
    paused,
    async claim() {
      const claims = await claim(sql, name, kinds, ALL)
      claims.sort((a, b) => (`${a.kind} ${a.id}` < `${b.kind} ${b.id}` ? -1 : 1))
      for (const one of claims) claimedAt.set(one, world.clock.seconds())
      held.push(...claims)
      return claims
    },
    begin(claimed, fault) {
      held.splice(held.indexOf(claimed), 1)
      const tick = newTick(fault)
      const done = during(tick, () => step(sql, all, claimed))
      return settle(claimed, tick, done)
    },
    resume(index) {
      const [{ claimed, tick, done }] = paused.splice(index, 1) as [Worker['paused'][number]]
      tick.paused!.resume()
      return settle(claimed, tick, done)
    },
    renew: () => renewLeases(sql, name, [...held, ...paused.map(({ claimed }) => claimed)]),
    async hasLost(claimed) {
      if (world.clock.seconds() - claimedAt.get(claimed)! < LEASE_SECONDS) return false
      const { kind, id, lease } = claimed
      const found = await world.owner`select from work where kind = ${kind} and id = ${id} and lease = ${lease}`
      return found.count === 0
    },
    async end() {
      held.length = 0
      for (const { tick, done } of paused.splice(0)) {
        tick.processEnded = true
        tick.paused!.resume()
        await done
      }
    },
  }
}
