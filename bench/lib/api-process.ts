/**
 * The API alone in a process of its own, on a database that is there: `api-process.ts URL recorded|plain`. Tells its
 * port and two keys of a new project, and ends when its parent does.
 */
import type { AddressInfo } from 'node:net'
import { createApp } from '../../server/src/app.ts'
import { connect } from '../../server/src/db/database.ts'
import type { Deps } from '../../server/src/deps.ts'
import { createSimulatedDriver } from '../../server/src/drivers/simulated/driver.ts'
import { createTestTenant, testConfig } from '../../server/src/http/testing.ts'
import { CATALOGUE } from '../../server/src/images/catalog.ts'
import { syncCatalogue } from '../../server/src/images/store.ts'
import { openNetworks } from '../../server/src/instances/testing-world.ts'
import { createKeyLookup } from '../../server/src/keys/store.ts'
import { systemClock as clock } from '../../server/src/lib/clock.ts'
import { createLog } from '../../server/src/lib/log.ts'
import { createMetrics } from '../../server/src/lib/metrics.ts'
import { systemRandom as random } from '../../server/src/lib/random.ts'
import { createRequestLog } from '../../server/src/requests/recorder.ts'

const [url, mode] = process.argv.slice(2) as [string, 'recorded' | 'plain']
const sql = connect({ url, max: 40, name: 'bench-api' })
const log = createLog({ level: 'warn', pretty: false })
const driver = createSimulatedDriver({ sql, seed: 1 })
const secret = new Uint8Array(32)
const deps: Deps = {
  ...{ config: testConfig, sql, clock, random, log, metrics: createMetrics() },
  resolve: async () => [],
  secrets: { pepper: secret, cursor_key: secret, seal_key: secret, database_key: secret },
  regions: [{ id: 'us-east-1', name: 'This host', drivers: { live: driver, test: driver } }],
  notifier: {
    announce() {},
    changed() {},
    onChange() {},
    nextChange: (_id, ms) => clock.sleep(ms),
    async start() {},
    async stop() {},
  },
  stopping: new AbortController().signal,
  keys: createKeyLookup({ sql, clock, pepper: secret }),
  requests: createRequestLog({ sql, clock, random, log, days: 14 }),
}
await sql`insert into environments (id, mode) values ('env_system', 'system') on conflict do nothing`
await sql.begin((tx) => syncCatalogue(tx, CATALOGUE))
const tenant = await createTestTenant(deps)
await openNetworks(sql, tenant)
const app = await createApp(deps, { ready: async () => [], recorded: mode === 'recorded' })
await app.listen({ port: 0, host: '127.0.0.1' })
process.on('message', () => {
  const { user, system } = process.cpuUsage()
  process.send!({ cpu_us: user + system, counts: deps.requests.counts() })
})
process.on('disconnect', () => process.exit())
process.send!({ port: (app.server.address() as AddressInfo).port, key: tenant.test.key })
