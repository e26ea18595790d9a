import type { Sql } from '../db/database.ts'
import type { Ask, Policy, Sale } from './gcra.ts'

/** One bucket's part of a statement. */
export type BucketAsk = { bucket: string; environment_id: string; policy: Policy; ask: Ask }

/** Rows that were full for an hour say nothing that their absence does not. */
const KEEP_SECONDS = 3_600

/** The shared buckets. All of them go through the unbound connection: one statement serves keys of several tenants. */
export type BucketStore = {
  /** Answers in the order asked. One statement, whatever the number of buckets. */
  exchange(asks: BucketAsk[]): Promise<Sale[]>
  removeIdle(): Promise<void>
}

/** @param now seconds of the database's clock, where a test gives them */
export function createBucketStore(sql: Sql, now: () => number | null = () => null): BucketStore {
  return {
    async exchange(asks) {
      // Every caller locks rows in the same order; none is asked for twice.
      const sorted = asks.toSorted((a, b) => (a.bucket < b.bucket ? -1 : 1))
      const rows = sorted.map(({ bucket, environment_id, policy, ask }) => ({
        bucket,
        environment_id,
        rate: policy.rate_per_second,
        burst: policy.burst,
        need: ask.need,
        extra: ask.extra,
        returned: ask.returned,
        ended_slot: ask.ended?.slot ?? null,
        ended_size: ask.ended?.size ?? null,
      }))
      const sales = await sql<(Sale & { bucket: string })[]>`
        select * from exchange_rate_limits(${JSON.stringify(rows)}::jsonb, ${now()})`
      const byBucket = new Map(sales.map((sale) => [sale.bucket, sale]))
      return asks.map(({ bucket }) => byBucket.get(bucket)!)
    },
    async removeIdle() {
      await sql`delete from rate_limits where tat < extract(epoch from clock_timestamp()) - ${KEEP_SECONDS}::float8`
    },
  }
}
