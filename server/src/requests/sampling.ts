/**
 * Which successful reads are recorded. Up to 1,000 in a second all are; beyond that one in so many that about 1,000 a
 * second remain, judged by the second before and, within a second, by how many there were already. Each recorded one
 * carries the share that it stands for, so that counts can be estimated as the sum of 1 / sample_rate.
 *
 * Chance decides which: every n-th would see only one address of a client that asks for n in turn.
 */
import type { Random } from '../lib/random.ts'

export const FULL_RATE = 1_000

/** One in how many to record. */
export function strideOf(thisSecond: number, lastSecond: number): number {
  return Math.max(1, Math.ceil(thisSecond / FULL_RATE), Math.ceil(lastSecond / FULL_RATE))
}

export type Sampler = {
  /** The share to record this one with; 0: leave it out. */
  rate(monotonicMs: number): number
}

export function createSampler(random: Random): Sampler {
  let second = Number.NEGATIVE_INFINITY
  let count = 0
  let before = 0
  return {
    rate(ms) {
      const current = Math.floor(ms / 1000)
      if (current !== second) {
        before = current === second + 1 ? count : 0
        second = current
        count = 0
      }
      const stride = strideOf(++count, before)
      return stride === 1 || random.integer(stride) === 0 ? 1 / stride : 0
    },
  }
}
