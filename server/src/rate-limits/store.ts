import type { Sql } from '../db/database.ts'
import type { ExchangeRequest, ExchangeResult, Policy } from './gcra.ts'

/** The exchange of one bucket. */
export type BucketExchange = { bucket: string; environment_id: string; policy: Policy; request: ExchangeRequest }

/** A bucket that has been full for an hour is deleted; it is equivalent to no row. */
const KEEP_SECONDS = 3_600

/** The shared buckets. The connection is not bound to a tenant, because one statement serves keys of several tenants. */
export type BucketStore = {
  /** Exchanges all buckets in one statement; returns the results in the order of the arguments. */
  exchange(exchanges: BucketExchange[]): Promise<ExchangeResult[]>
  removeIdle(): Promise<void>
}

/** @param now replaces the clock of the database in tests, in seconds */
export function createBucketStore(sql: Sql, now: () => number | null = () => null): BucketStore {
  return {
    async exchange(exchanges) {
      // All callers lock rows in the same order; each bucket occurs once.
      const ordered = exchanges.toSorted((a, b) => (a.bucket < b.bucket ? -1 : 1))
      const rows = ordered.map(({ bucket, environment_id, policy, request }) => ({
        bucket,
        environment_id,
        rate: policy.rate_per_second,
        burst: policy.burst,
        need: request.need,
        extra: request.extra,
        returned: request.returned,
        ended_slot: request.ended?.slot ?? null,
        ended_size: request.ended?.size ?? null,
      }))
      const results = await sql<(ExchangeResult & { bucket: string })[]>`
        select * from exchange_rate_limits(${JSON.stringify(rows)}::jsonb, ${now()})`
      const byBucket = new Map(results.map((result) => [result.bucket, result]))
      return exchanges.map(({ bucket }) => byBucket.get(bucket)!)
    },
    async removeIdle() {
      await sql`delete from rate_limits where tat < extract(epoch from clock_timestamp()) - ${KEEP_SECONDS}::float8`
    },
  }
}
