/**
 * The cost of rate limits: decisions on one busy key with leased tokens, compared with one statement per decision (a plain
 * upsert, and the project's own function) on the same server in the same run.
 */
import { defaultSettings } from '../server/src/config.ts'
import { connect } from '../server/src/db/database.ts'
import { migrate } from '../server/src/db/migrate.ts'
import { startTestServer } from '../server/src/db/test-server.ts'
import { systemClock as clock } from '../server/src/lib/clock.ts'
import { silentLog as log } from '../server/src/lib/log.ts'
import { createRateLimits } from '../server/src/rate-limits/hook.ts'
import { createBucketStore } from '../server/src/rate-limits/store.ts'
import { median } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 5)
const SECONDS = 1
const CONNECTIONS = 8
const PLENTY = { rate_per_second: 10_000_000, burst: 10_000_000 }

const server = await startTestServer()
const sql = connect({ url: server.url, max: CONNECTIONS, name: 'bench' })
await migrate(sql)
await sql`create unlogged table plain_limits (key text primary key, tat timestamptz not null)`

const rate_limits = { ...defaultSettings().rate_limits, reads: PLENTY, writes: PLENTY, creates: PLENTY }
let statements = 0
function count<T>(statement: T): T {
  statements++
  return statement
}
const counted = Object.assign(((...args: Parameters<typeof sql>) => count(sql(...args))) as typeof sql, sql)
const hook = createRateLimits({ config: { rate_limits }, sql: counted, clock, log })
const store = createBucketStore(sql)
/** The parts of a request and its response that the hook uses. */
const principal = { key_id: 'key_1', project_id: 'proj_1', environment_id: 'env_1', mode: 'live' as const, scopes: [] }
const request = { method: 'GET', principal } as never
const reply = { headers() {} } as never

const METHODS: Record<string, () => Promise<number>> = {
  'plain upsert': () =>
    perSecond(async () => {
      await sql`insert into plain_limits values ('k', clock_timestamp()) on conflict (key) do update
        set tat = greatest(plain_limits.tat, clock_timestamp()) + interval '1 microsecond'
        where plain_limits.tat < clock_timestamp() + interval '1 second' returning tat`
    }),
  'exchange of one token': () =>
    perSecond(async () => {
      const request = { need: 1, extra: 0, returned: 0, ended: null }
      await store.exchange([{ bucket: 'b', environment_id: 'env_1', policy: PLENTY, request }])
    }),
  'the hook, one key': async () => {
    const begin = performance.now()
    let count = 0
    while (performance.now() - begin < SECONDS * 1_000) {
      for (let i = 0; i < 100; i++) await hook.spend(request, reply, undefined)
      count += 100
      // Results of the database arrive between requests, as they do in a server.
      await new Promise(setImmediate)
    }
    return count / ((performance.now() - begin) / 1_000)
  },
}

const figures: Record<string, number[]> = {}
for (let i = 0; i < ROUNDS; i++) {
  for (const [name, measure] of Object.entries(METHODS)) {
    const values = figures[name] ?? []
    figures[name] = values
    values.push(await measure())
  }
}
const base = median(figures['plain upsert']!)
for (const [name, values] of Object.entries(figures)) {
  const middle = median(values)
  const each = `${(1e6 / middle).toFixed(2)} µs each`
  process.stdout.write(
    `limits: ${name.padEnd(22)} ${middle.toFixed(0).padStart(8)}/s  ${(middle / base).toFixed(2)} of the plain upsert  ${each}\n`,
  )
}
const decided = median(figures['the hook, one key']!) * ROUNDS * SECONDS
process.stdout.write(`limits: ${statements} statements for about ${Math.round(decided)} decisions of the hook\n`)
await hook.close()
await sql.end()
await server.stop()

/** Completed runs of the function per second, with one run per connection at a time. */
async function perSecond(once: () => Promise<void>): Promise<number> {
  const begin = performance.now()
  let count = 0
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      for (; performance.now() - begin < SECONDS * 1_000; count++) await once()
    }),
  )
  return count / ((performance.now() - begin) / 1_000)
}
