/** Several processes that share buckets in memory. */
import type { Clock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { type Bucket, createBucket } from './bucket.ts'
import { type BucketState, exchange, FULL, type Policy } from './gcra.ts'
import { Limiter } from './limiter.ts'
import type { BucketStore } from './store.ts'

/** The shared buckets in memory, computed by gcra.ts; counts statements. */
export function createMemoryStore(now: () => number): BucketStore & { statements: number } {
  const states = new Map<string, BucketState>()
  return {
    statements: 0,
    async exchange(exchanges) {
      this.statements++
      return exchanges.map(({ bucket, policy, request }) => {
        const [state, result] = exchange(policy, states.get(bucket) ?? FULL, request, now())
        states.set(bucket, state)
        return result
      })
    },
    async removeIdle() {},
  }
}

export type Process = { limiter: Limiter; bucket: Bucket }

/** Processes that share one bucket. */
export function createProcesses(count: number, policy: Policy, clock: Clock, store: BucketStore): Process[] {
  return Array.from({ length: count }, () => ({
    limiter: new Limiter({ store, clock, log: silentLog }),
    bucket: createBucket({
      id: 'key_1:reads',
      environment_id: 'env_1',
      name: 'reads',
      policy,
      when_unavailable: 'pass',
    }),
  }))
}

/** An exact token bucket: the upper bound of accepted requests, and the lower bound for rejections. */
export function createIdealBucket({ rate_per_second, burst }: Policy) {
  let level = burst
  let last = 0
  return {
    /** Takes tokens at a time in milliseconds; returns the remaining tokens, below zero if there were too few. */
    take(atMs: number, tokens = 1): number {
      level = Math.min(burst, level + ((atMs - last) / 1_000) * rate_per_second) - tokens
      last = atMs
      return level
    },
    level(atMs: number): number {
      return Math.min(burst, level + ((atMs - last) / 1_000) * rate_per_second)
    },
  }
}
