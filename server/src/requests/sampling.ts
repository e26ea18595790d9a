/**
 * Which successful reads are recorded. Up to 1,000 in a second all are; the more there are beyond that, the fewer are
 * recorded (of 4,000 a second 500, of 16,000 250), because a host that answers so many has no time to write them down:
 * thousands of rows a second would cost each request a tenth of its own time. How many there are is judged by the second before
 * and, within a second, by how many there were already. Each recorded one carries the share that it stands for, so that
 * counts can be estimated as the sum of 1 / sample_rate: of 250 rows to six percent, of a minute's to one.
 *
 * Chance decides which: every n-th would see only one address of a client that asks for n in turn.
 */
import type { Random } from '../lib/random.ts'

export const FULL_RATE = 1_000

/** One in how many to record: so that of n thousand a second 1,000 / √n remain. */
export function strideOf(thisSecond: number, lastSecond: number): number {
  const thousands = Math.max(1, thisSecond / FULL_RATE, lastSecond / FULL_RATE)
  return Math.ceil(thousands * Math.sqrt(thousands))
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
