/**
 * Samples successful reads. Up to 1,000 reads per second are all recorded. Above that, fewer are recorded the more there
 * are (500 of 4,000 per second, 250 of 16,000), because thousands of rows per second would increase the time of each
 * request by a tenth. The rate depends on the number of reads in the previous second and so far in the current one. Each
 * row contains its sample rate, so that the sum of 1 / sample_rate estimates the number of reads: from 250 rows to six
 * percent, from those of a minute to one percent.
 *
 * The selection is random: recording every n-th read would record only one URL of a client that reads n URLs in a cycle.
 */
import type { Random } from '../lib/random.ts'

export const FULL_RATE = 1_000

/** Records one read in so many: of n thousand per second, 1,000 / √n. */
export function strideOf(thisSecond: number, lastSecond: number): number {
  const thousands = Math.max(1, thisSecond / FULL_RATE, lastSecond / FULL_RATE)
  return Math.ceil(thousands * Math.sqrt(thousands))
}

export type Sampler = {
  /** The sample rate of this read; 0: do not record it. */
  rate(monotonicMs: number): number
}

export function createSampler(random: Random): Sampler {
  let second = Number.NEGATIVE_INFINITY
  let count = 0
  let previous = 0
  return {
    rate(ms) {
      const current = Math.floor(ms / 1000)
      if (current !== second) {
        previous = current === second + 1 ? count : 0
        second = current
        count = 0
      }
      const stride = strideOf(++count, previous)
      return stride === 1 || random.integer(stride) === 0 ? 1 / stride : 0
    },
  }
}
