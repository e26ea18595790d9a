/** The control plane with simulated time, machines and faults: one app and one database for all histories. */
import { createApp } from '../app.ts'
import type { Sql, Transaction } from '../db/database.ts'
import type { Notifier } from '../db/notify.ts'
import type { Deps } from '../deps.ts'
import type { Driver } from '../drivers/driver.ts'
import { createSimulatedDriver } from '../drivers/simulated/driver.ts'
import { wakeExisting } from '../engine/work.ts'
import { TEST_CAPACITY, testConfig } from '../http/testing.ts'
import { type CheckResponse, createResponseCheck } from '../http/testing-responses.ts'
import type { App } from '../http/types.ts'
import { CATALOGUE } from '../images/catalog.ts'
import { syncCatalogue } from '../images/store.ts'
import { createKeyLookup } from '../keys/lookup.ts'
import { newProjectKeys, PROJECT_SCOPES } from '../keys/store.ts'
import type { Clock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { createMetrics } from '../lib/metrics.ts'
import { type Random, seededRandom } from '../lib/random.ts'
import { ensureProject, insertProject } from '../projects/store.ts'
import type { RequestLog } from '../requests/recorder.ts'
import { openDatabase, type SimulatedDatabase } from './database.ts'
import { faultySql } from './faulty-sql.ts'
import { watchedDriver } from './machines.ts'
import type { Mutant } from './mutants.ts'
import { createReceivers, type Receivers } from './receivers.ts'
import { createSimulatedClock, type SimulatedClock, setDatabaseTime } from './time.ts'

const ZEROS = new Uint8Array(32)
const REGION = 'us-east-1'
const SYSTEM_ENVIRONMENT = 'env_system'

/** One environment and its API key. */
export type Tenant = { project_id: string; environment_id: string; mode: 'live' | 'test'; key: string }

export type SimulatedWorld = {
  app: App
  checkResponse: CheckResponse
  deps: Deps
  clock: SimulatedClock
  database: SimulatedDatabase
  owner: Sql
  receivers: Receivers
  /** Second processes of a machine since the last call. */
  doubleStarts(): string[]
  /** Number of committed transactions. */
  commits(): number
  /** IDs of machines for which a driver has sent a hint. */
  hints: string[]
  /** The resync interval of the drivers. */
  resync_seconds: number
  /** Creates a new installation with two projects from this seed. */
  begin(seed: number, mutant: Mutant | null): Promise<Tenant[]>
  /** Advances the time of the process and of the database. */
  advance(seconds: number): Promise<void>
  /** Clears the caches of the process, as its end does. */
  clearCaches(): void
  close(): Promise<void>
}

/** Publishes changes to the caches of this process; there is no other one. */
function localNotifier(clock: Clock) {
  const listeners: ((id: string | null) => void)[] = []
  const publish = (id: string | null) => {
    for (const listener of listeners) listener(id)
  }
  const notifier: Notifier = {
    announce() {},
    changed: publish,
    onChange: (listener) => void listeners.push(listener),
    nextChange: (_id, ms, signal) => clock.sleep(ms, signal),
    async start() {},
    async stop() {},
  }
  return { notifier, publish }
}

/** No request log: it is written in real time. */
const NO_REQUEST_LOG: RequestLog = {
  sample: () => 0,
  request() {},
  span() {},
  async flush() {},
  async stop() {},
  counts: () => ({ written: 0, sampled_out: 0, dropped_reads: 0, dropped_kept: 0, queued: 0 }),
}

/** Inserts a new installation with two projects. */
async function insertInstallation(tx: Transaction, random: Random): Promise<Tenant[]> {
  await tx`insert into environments (id, mode) values (${SYSTEM_ENVIRONMENT}, 'system')`
  await tx`insert into address_pools (id, range) values (${`public:live:${REGION}`}, '127.90.1.0/24')`
  await syncCatalogue(tx, CATALOGUE)
  await tx`update images set observed_state = 'present'`
  const tenants: Tenant[] = []
  for (const name of ['first', 'second']) {
    const { id: project_id } = await insertProject(tx, random, name)
    const keys = newProjectKeys(random)
    const own = { regions: [REGION], keys, key_name: 'key', scopes: PROJECT_SCOPES, pepper: ZEROS }
    const environments = await ensureProject(tx, random, project_id, own)
    for (const mode of ['live', 'test'] as const) {
      tenants.push({ project_id, environment_id: environments[mode], mode, key: keys[mode] })
    }
  }
  return tenants
}

export async function openWorld(): Promise<SimulatedWorld> {
  const database = await openDatabase()
  const { owner } = database
  const clock = createSimulatedClock()
  let source = seededRandom(0)
  let mutant: Mutant | null = null
  let commits = 0
  const random: Random = { integer: (max) => source.integer(max), bytes: (length) => source.bytes(length) }
  const sql = faultySql(
    database.sql,
    () => mutant ?? {},
    () => commits++,
  )
  const hints: string[] = []
  const doubles: string[] = []
  const { notifier, publish } = localNotifier(clock)

  function driver(seed: number, capacity: Driver['capacity']): Driver {
    // Below the points of faults: a driver call is one point.
    const simulated = createSimulatedDriver({ sql: database.sql, seed })
    simulated.watch((id) => hints.push(id))
    const delegate = () => mutant?.driver?.(simulated) ?? simulated
    const mutated = new Proxy(simulated, { get: (_, name) => delegate()[name as keyof Driver] })
    const watched = watchedDriver(mutated, simulated.get, (what) => doubles.push(what))
    return Object.defineProperty({ ...watched, capacity }, 'resync_seconds', { get: () => world.resync_seconds })
  }

  const receivers = createReceivers(clock.now)
  const deps: Deps = {
    imageSpaceBytes: () => Number.MAX_SAFE_INTEGER,
    config: { ...testConfig, rate_limits: { ...testConfig.rate_limits, enabled: false } },
    secrets: { pepper: ZEROS, cursor_key: ZEROS, seal_key: ZEROS, database_key: ZEROS },
    regions: [
      {
        id: REGION,
        name: 'This host',
        drivers: { live: driver(1, () => TEST_CAPACITY), test: driver(2, () => null) },
      },
    ],
    sql,
    clock,
    random,
    notifier,
    log: silentLog,
    requests: NO_REQUEST_LOG,
    metrics: createMetrics(),
    keys: createKeyLookup({ sql, clock, pepper: ZEROS }),
    resolve: () => Promise.reject(new Error('the simulation resolves no names')),
    openConnection: receivers.openConnection,
    stopping: new AbortController().signal,
  }
  const app = await createApp(deps, { ready: async () => [], recorded: false })
  await app.ready()

  const world: SimulatedWorld = {
    app,
    deps,
    clock,
    database,
    owner,
    receivers,
    hints,
    resync_seconds: 60,
    checkResponse: createResponseCheck(app.swagger() as never),
    commits: () => commits,
    doubleStarts: () => doubles.splice(0),
    async begin(seed, chosenMutant) {
      clock.restart()
      await setDatabaseTime(owner, clock)
      await database.clear()
      mutant = chosenMutant
      source = seededRandom(seed)
      hints.length = 0
      receivers.reset()
      publish(null)
      return owner.begin((tx) => insertInstallation(tx, random))
    },
    async advance(seconds) {
      clock.advance(Math.round(seconds * 1000))
      await setDatabaseTime(owner, clock)
    },
    clearCaches: () => publish(null),
    close: () => app.close(),
  }
  return world
}

/** Delivers a driver's hint, as `watchDriver` does. */
export const deliverHint = (world: SimulatedWorld, id: string): Promise<void> =>
  wakeExisting(world.deps.sql, 'instance', id)
