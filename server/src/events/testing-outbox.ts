import type { Sql } from '../db/database.ts'
import { testConfig } from '../http/testing.ts'
import { systemRandom } from '../lib/random.ts'
import type { OutboxDeps } from './outbox.ts'

/** Dependencies of `withOutbox` for a test database, without notifications. */
export function testOutboxDeps(sql: Sql): OutboxDeps {
  const notifier = { announce() {}, changed() {} } as unknown as OutboxDeps['notifier']
  return { sql, random: systemRandom, config: testConfig, notifier }
}
