import type { Sql } from '../db/database.ts'
import { testConfig } from '../http/testing.ts'
import { systemRandom } from '../lib/random.ts'
import type { OutboxDeps } from './outbox.ts'

/** What `withOutbox` needs, over the connections of a test database. Nobody is notified. */
export function testOutboxDeps(sql: Sql): OutboxDeps {
  const notifier = { announce() {}, changed() {} } as unknown as OutboxDeps['notifier']
  return { sql, random: systemRandom, config: testConfig, notifier }
}
