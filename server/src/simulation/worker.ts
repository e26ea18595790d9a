/**
 * An engine process, taken apart: it claims what is due, and its steps run one at a time when the simulation says so. A
 * pass may pause between two points, so what happens meanwhile (a request, the end of its lease, another worker)
 * meets a step that knows nothing of it.
 */
import { type Reconcilers, type StepResult, step } from '../engine/loop.ts'
import { type Claim, claim, LEASE_SECONDS, renewLeases } from '../engine/work.ts'
import { pools } from '../reconcilers.ts'
import { during, type Fault, newTick, type Tick } from './faults.ts'
import type { SimulatedWorld } from './world.ts'

/** More than there are keys: which of two that are due at the same time comes first is the simulation's choice. */
const ALL = 1_000
/** Kinds whose work is outside: processes that import images. */
export const LEFT_OUT = ['image']

/** How a step ended, or where it stands. */
export type Stepped = {
  claimed: Claim
  looked: StepResult | 'crashed' | 'stands still'
  fell: string | null
  points: number
}

export type Worker = {
  name: string
  /** Claimed, and not begun. */
  held: Claim[]
  standing: { claimed: Claim; tick: Tick; done: Promise<StepResult> }[]
  claim(): Promise<Claim[]>
  begin(claimed: Claim, fault: Fault | null): Promise<Stepped>
  /** Lets a step go on that stands still. */
  resume(index: number): Promise<Stepped>
  renew(): Promise<void>
  /** Whether the lease of this claim has been lost meanwhile. */
  hasLost(claimed: Claim): Promise<boolean>
  /** The process ends: what stood still never goes on. */
  end(): Promise<void>
}

/** Lets what was asked of the database be answered. */
const turn = () => new Promise((resolve) => setImmediate(resolve))

export function startWorker(world: SimulatedWorld, name: string): Worker {
  const { sql } = world.deps
  const all: Reconcilers = Object.assign({}, ...pools(world.deps).map((pool) => pool.reconcilers))
  const kinds = Object.keys(all).filter((kind) => !LEFT_OUT.includes(kind))
  const held: Claim[] = []
  const standing: Worker['standing'] = []
  const claimedAt = new WeakMap<Claim, number>()

  async function settle(claimed: Claim, tick: Tick, done: Promise<StepResult>): Promise<Stepped> {
    const still = new Promise<null>((resolve) => {
      tick.onPause = () => resolve(null)
      // A step whose first point is a pause has stopped before this runs.
      if (tick.paused && tick.busy === 0) resolve(null)
    })
    const looked = await Promise.race([done, still])
    if (looked === null) standing.push({ claimed, tick, done })
    // Nothing of a step that has ended meets what comes next.
    else while (tick.busy > 0) await turn()
    const { fell, points } = tick
    return { claimed, fell, points, looked: looked === null ? 'stands still' : tick.isDead ? 'crashed' : looked }
  }

  return {
    ...{ name, held, standing },
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
      const [{ claimed, tick, done }] = standing.splice(index, 1) as [Worker['standing'][number]]
      tick.paused!.resume()
      return settle(claimed, tick, done)
    },
    renew: () => renewLeases(sql, name, [...held, ...standing.map(({ claimed }) => claimed)]),
    async hasLost(claimed) {
      if (world.clock.seconds() - claimedAt.get(claimed)! < LEASE_SECONDS) return false
      const { kind, id, lease } = claimed
      const found = await world.owner`select from work where kind = ${kind} and id = ${id} and lease = ${lease}`
      return found.count === 0
    },
    async end() {
      held.length = 0
      for (const { tick, done } of standing.splice(0)) {
        tick.isDead = true
        tick.paused!.resume()
        await done
      }
    },
  }
}
