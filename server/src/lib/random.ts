import { randomBytes, randomInt } from 'node:crypto'

/** Randomness as an input: `systemRandom` in production, `seededRandom` where a run must repeat. */
export interface Random {
  /** Uniform integer in [0, max). */
  integer(max: number): number
  bytes(length: number): Uint8Array
}

/** Cryptographically secure. */
export const systemRandom: Random = {
  integer: (max) => randomInt(max),
  bytes: (length) => randomBytes(length),
}

/** Deterministic (mulberry32); for tests and the simulated world, never for a secret. */
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
