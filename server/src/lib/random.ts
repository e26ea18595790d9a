import { randomBytes, randomInt } from 'node:crypto'

/** Randomness as an input: `systemRandom` in production, `seededRandom` where runs must be reproducible. */
export interface Random {
  /** Uniform integer in [0, max). */
  integer(max: number): number
  bytes(length: number): Uint8Array
}

/** Number of bytes per call of randomBytes: each request generates an ID of twenty characters. */
const POOL_BYTES = 4_096
let pool = new Uint8Array(0)
let drawn = 0

function byte(): number {
  if (drawn >= pool.length) {
    pool = randomBytes(POOL_BYTES)
    drawn = 0
  }
  const value = pool[drawn]!
  pool[drawn++] = 0
  return value
}

/** Cryptographically secure. */
export const systemRandom: Random = {
  integer(max) {
    if (!(max > 0 && max <= 65_536)) return randomInt(max)
    // Values from the last multiple of `max` on are discarded; they would make small results more likely.
    const range = max <= 256 ? 256 : 65_536
    for (const limit = range - (range % max); ; ) {
      const value = range === 256 ? byte() : byte() * 256 + byte()
      if (value < limit) return value % max
    }
  },
  bytes: (length) => randomBytes(length),
}

/** Deterministic (mulberry32), for tests and the simulated driver; never for secrets. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    integer: (max) => Math.floor(next() * max),
    bytes: (length) => Uint8Array.from({ length }, () => Math.floor(next() * 256)),
  }
}
