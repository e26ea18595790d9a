/**
 * Slots for work that would take too much if all of it ran at once. Work of one owner uses a part of them only, so that
 * the others find a free one; what finds none waits, first come, first served, and what finds too many waiting is refused.
 */

/** Too much work is waiting. */
export class SlotsFull extends Error {}

export type SlotLimits = {
  /** Running at once, and of them by one owner. */
  total: number
  per_owner: number
  /** Waiting by one owner. */
  waiting_per_owner: number
}

type Waiting = { owner: string; start: () => void }

/** Returns a function that runs work in a slot. It rejects with SlotsFull if the owner has too much work waiting. */
export function createSlots({ total, per_owner, waiting_per_owner }: SlotLimits) {
  const running = new Map<string, number>()
  let waiting: Waiting[] = []
  let count = 0

  const isFree = (owner: string) => count < total && (running.get(owner) ?? 0) < per_owner

  function take(owner: string): void {
    count++
    running.set(owner, (running.get(owner) ?? 0) + 1)
  }

  function release(owner: string): void {
    count--
    const left = running.get(owner)! - 1
    if (left > 0) running.set(owner, left)
    else running.delete(owner)
    const next = waiting.find((each) => isFree(each.owner))
    if (!next) return
    waiting = waiting.filter((each) => each !== next)
    take(next.owner)
    next.start()
  }

  return async function inSlot<T>(owner: string, work: () => Promise<T>): Promise<T> {
    if (isFree(owner)) take(owner)
    else {
      const own = waiting.filter((each) => each.owner === owner).length
      if (own >= waiting_per_owner) throw new SlotsFull()
      await new Promise<void>((start) => waiting.push({ owner, start }))
    }
    try {
      return await work()
    } finally {
      release(owner)
    }
  }
}
