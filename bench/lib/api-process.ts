/**
 * The API without the engine in a process of its own, on an existing database: `api-process.ts URL recorded|plain`. Sends
 * its port and a key of a new project to its parent, and ends when the parent does.
 */
import type { AddressInfo } from 'node:net'
import { createApp } from '../../server/src/app.ts'
import { readConfig } from '../../server/src/config.ts'
import { connect } from '../../server/src/db/database.ts'
import { openRoles } from '../../server/src/db/roles.ts'
import type { Deps } from '../../server/src/deps.ts'
import { createSimulatedDriver } from '../../server/src/drivers/simulated/driver.ts'
import { CATALOGUE } from '../../server/src/images/catalog.ts'
import { syncCatalogue } from '../../server/src/images/store.ts'
import { createKeyLookup } from '../../server/src/keys/lookup.ts'
import { newProjectKeys } from '../../server/src/keys/store.ts'
import { systemClock as clock } from '../../server/src/lib/clock.ts'
import { createLog } from '../../server/src/lib/log.ts'
import { createMetrics } from '../../server/src/lib/metrics.ts'
import { openConnection } from '../../server/src/lib/outbound-connection.ts'
import { systemRandom as random } from '../../server/src/lib/random.ts'
import { createRequestLog } from '../../server/src/requests/recorder.ts'
import { openFirstProject } from '../../server/src/start/first-project.ts'

const [url, mode] = process.argv.slice(2) as [string, 'recorded' | 'plain']
const secret = new Uint8Array(32)
/** Any public key: no machine is created. */
const SSH_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f'
const PLENTY = { rate_per_second: 1_000_000, burst: 1_000_000 }
const rate_limits = { reads: PLENTY, writes: PLENTY, creates: PLENTY, test_writes: PLENTY, test_creates: PLENTY }
const invocation = readConfig([], {}, () => ({ rate_limits }) as never)
if (invocation.kind !== 'run') throw new Error('no configuration')
const { settings } = invocation
const config = { ...settings, data_dir: '/nonexistent', run_dir: '/nonexistent', public_url: 'http://localhost:8080' }
const owner = connect({ url, max: 1, name: 'bench-owner' })
const urls = await openRoles(owner, url, 'bench', secret)
const sql = connect({ url: urls.cn_engine, max: 20, name: 'bench', tenants: { url: urls.cn_app, max: 40 } })
const keys = newProjectKeys(random)
await openFirstProject(owner, random, {
  region: 'us-east-1',
  public_addresses: '127.90.1.0/24',
  keys,
  pepper: secret,
  ssh_public_key: SSH_KEY,
})
await owner.begin((tx) => syncCatalogue(tx, CATALOGUE))
await owner.end()

const log = createLog({ level: 'warn', pretty: false })
const driver = createSimulatedDriver({ sql, seed: 1 })
const deps: Deps = {
  ...{ config, sql, clock, random, log, metrics: createMetrics() },
  resolve: async () => [],
  openConnection,
  imageSpaceBytes: () => Number.MAX_SAFE_INTEGER,
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
const app = await createApp(deps, { ready: async () => [], recorded: mode === 'recorded' })
await app.listen({ port: 0, host: '127.0.0.1' })
process.on('message', () => {
  const { user, system } = process.cpuUsage()
  process.send!({ cpu_us: user + system, counts: deps.requests.counts() })
})
process.on('disconnect', () => process.exit())
process.send!({ port: (app.server.address() as AddressInfo).port, key: keys.test })
