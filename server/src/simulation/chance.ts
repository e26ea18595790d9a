/** Random choices. */
import type { Random } from '../lib/random.ts'

/** One of several with equal probability. */
export const pick = <T>(random: Random, from: readonly T[]): T => from[random.integer(from.length)]!

/** True with this probability in percent. */
export const chance = (random: Random, percent: number): boolean => random.integer(100) < percent

/** One of several, by weight. */
export function weighted<T>(random: Random, choices: readonly (readonly [weight: number, value: T])[]): T {
  const total = choices.reduce((sum, [weight]) => sum + weight, 0)
  let at = (random.integer(1_000_000) / 1_000_000) * total
  for (const [weight, value] of choices) {
    at -= weight
    if (at < 0) return value
  }
  return choices.at(-1)![1]
}
