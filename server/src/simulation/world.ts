/** The whole control plane on simulated time, machines and faults: one app and one database for all histories. */
import { createApp } from '../app.ts'
import type { Sql } from '../db/database.ts'
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
import { createKeyLookup, newProjectKeys, PROJECT_SCOPES } from '../keys/store.ts'
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
import { createSimulatedClock, type SimulatedClock, tellDatabase } from './time.ts'

const ZEROS = new Uint8Array(32)
const REGION = 'us-east-1'
const SYSTEM_ENVIRONMENT = 'env_system'

/** One environment and the key of who uses it. */
export type Tenant = { project_id: string; environment_id: string; mode: 'live' | 'test'; key: string }

export type SimulatedWorld = {
  app: App
  checkAnswer: CheckResponse
  deps: Deps
  clock: SimulatedClock
  database: SimulatedDatabase
  owner: Sql
  receivers: Receivers
  /** What the drivers were seen to do wrong since the last time. */
  doubleStarts(): string[]
  /** How many transactions were committed so far. */
  commits(): number
  /** Machines of which a driver has said that they have changed. */
  hints: string[]
  /** What the drivers say of machines at rest. */
  resync_seconds: number
  /** A fresh installation with two projects, as this seed makes it. */
  begin(seed: number, mutant: Mutant | null): Promise<Tenant[]>
  /** Lets time pass, for the process and the database. */
  pass(seconds: number): Promise<void>
  /** What a process that ends forgets. */
  forget(): void
  close(): Promise<void>
}

/** There is no other process: changes are published to the caches of this one. */
function localNotifier(clock: Clock) {
  const listeners: ((id: string | null) => void)[] = []
  const tell = (id: string | null) => {
    for (const listener of listeners) listener(id)
  }
  const notifier: Notifier = {
    announce() {},
    changed: tell,
    onChange: (listener) => void listeners.push(listener),
    nextChange: (_id, ms, signal) => clock.sleep(ms, signal),
    async start() {},
    async stop() {},
  }
  return { notifier, tell }
}

/** Traces are another matter: they are written later, by real time. */
const NO_REQUEST_LOG: RequestLog = {
  sample: () => 0,
  request() {},
  span() {},
  async flush() {},
  async stop() {},
  counts: () => ({ written: 0, sampled_out: 0, dropped_reads: 0, dropped_kept: 0, queued: 0 }),
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
  const { notifier, tell } = localNotifier(clock)

  function driver(seed: number, capacity: Driver['capacity']): Driver {
    // Behind the points: what a driver does inside is its own.
    const simulated = createSimulatedDriver({ sql: database.sql, seed })
    simulated.watch((id) => hints.push(id))
    const delegate = () => mutant?.driver?.(simulated) ?? simulated
    const broken = new Proxy(simulated, { get: (_, name) => delegate()[name as keyof Driver] })
    const watched = watchedDriver(broken, simulated.get, (what) => doubles.push(what))
    return Object.defineProperty({ ...watched, capacity }, 'resync_seconds', { get: () => world.resync_seconds })
  }

  const receivers = createReceivers(clock.now)
  const deps: Deps = {
    config: { ...testConfig, rate_limits: { ...testConfig.rate_limits, enabled: false } },
    secrets: { pepper: ZEROS, cursor_key: ZEROS, seal_key: ZEROS, database_key: ZEROS },
    regions: [
      {
        id: REGION,
        name: 'This host',
        drivers: { live: driver(1, () => TEST_CAPACITY), test: driver(2, () => null) },
      },
    ],
    ...{ sql, clock, random, notifier, log: silentLog, requests: NO_REQUEST_LOG, metrics: createMetrics() },
    keys: createKeyLookup({ sql, clock, pepper: ZEROS }),
    resolve: () => Promise.reject(new Error('no names in a simulation')),
    openConnection: receivers.openConnection,
    stopping: new AbortController().signal,
  }
  const app = await createApp(deps, { ready: async () => [], recorded: false })
  await app.ready()

  const world: SimulatedWorld = {
    ...{ app, deps, clock, database, owner, receivers, hints, resync_seconds: 60 },
    checkAnswer: createResponseCheck(app.swagger() as never),
    commits: () => commits,
    doubleStarts: () => doubles.splice(0),
    async begin(seed, planted) {
      clock.restart()
      await tellDatabase(owner, clock)
      await database.clear()
      mutant = planted
      source = seededRandom(seed)
      hints.length = 0
      receivers.reset()
      tell(null)
      return owner.begin(async (tx) => {
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
      })
    },
    async pass(seconds) {
      clock.pass(Math.round(seconds * 1000))
      await tellDatabase(owner, clock)
    },
    forget: () => tell(null),
    close: () => app.close(),
  }
  return world
}

/** A driver's hint, as `watchDriver` carries it out. */
export const carryHint = (world: SimulatedWorld, id: string): Promise<void> =>
  wakeExisting(world.deps.sql, 'instance', id)
