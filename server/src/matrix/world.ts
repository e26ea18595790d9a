/**
 * A control plane whose faults a test decides: a real database, real reconcilers and the real engine, simulated machines, and
 * frozen clocks, which only the test advances. Engines run only when a test runs them.
 */
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { createApp } from '../app.ts'
import type { Sql } from '../db/database.ts'
import { ownerOf } from '../db/testing.ts'
import type { Deps } from '../deps.ts'
import type { Driver, ObservedMachine } from '../drivers/driver.ts'
import { createSimulatedDriver } from '../drivers/simulated/driver.ts'
import { createEngine, type Engine, type Reconcilers } from '../engine/loop.ts'
import type { Claim } from '../engine/work.ts'
import { createTestApp, createTestTenant, removeQuotas, type TestApp, testConfig } from '../http/testing.ts'
import { CATALOGUE } from '../images/catalog.ts'
import { jobPaths } from '../images/importer/job-files.ts'
import { type Importer, imageReconciler } from '../images/reconcile.ts'
import { syncCatalogue } from '../images/store.ts'
import { wakeInstancesWaitingForImage } from '../instances/store.ts'
import { openNetworks } from '../instances/testing-world.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { pools } from '../reconcilers.ts'
import { faultySql } from '../testing/faulty-sql.ts'
import { installProbes } from '../testing/probes.ts'
import { Faults, noResponse } from './faults.ts'
import { lockedDriver } from './machines.ts'

/** A fault of the product that a test must detect. */
export type Mutant = {
  driver?: (driver: Driver, owner: Sql) => Driver
  /** The driver with its faults, as the reconcilers call it. */
  faulty_driver?: (driver: Driver) => Driver
  /** The reconcilers' connections. */
  sql?: (sql: Sql) => Sql
  /** The engine's connections. */
  engine_sql?: (sql: Sql) => Sql
}

/** One process that reconciles keys. */
export type Worker = {
  engine: Engine
  /** Number of passes that have begun and not ended, including those that never end. */
  active(): number
  /** Whether a claim is in flight, also after the engine was stopped without waiting for it. */
  isClaiming(): boolean
}

export type MatrixWorld = Pick<TestApp, 'app' | 'owner' | 'deps'> & {
  faults: Faults
  data_dir: string
  /** The same app on connections where transactions of writes may fail: those within a subject of `faults`. */
  faulty_app: TestApp['app']
  worker(name: string): Promise<Worker>
  /** A project whose clocks are frozen. */
  tenant(): ReturnType<typeof createTestTenant>
  /** Called for each pass, and for the machine that the driver returned in it. */
  watch: {
    pass?: (claimed: Claim) => void
    observed?: (claimed: Claim, machine: ObservedMachine | null) => Promise<void>
  }
  /** The kinds of THE LIST of reconcilers. */
  kinds: string[]
  /** The URL of a receiver of webhooks that returns 204, and below it at `gone` 410. */
  receiverUrl(): Promise<string>
  close(): Promise<void>
}

/** Leases end only where a test ends them, so that the speed of the host does not decide which worker has a key. */
const ENDLESS_LEASES = `
  create function endless_lease() returns trigger language plpgsql as $$ begin
    new.leased_until := 'infinity';
    return new; end $$;
  create trigger endless before update on work for each row when (new.leased_until > now())
    execute function endless_lease();`

const START = '2030-01-01T00:00:00Z'
/** Part of the URL of an image whose import fails. */
export const REFUSED = 'refused'

export async function createMatrixWorld(mutant: Mutant = {}): Promise<MatrixWorld> {
  const faults = new Faults()
  const watch: MatrixWorld['watch'] = {}
  const data_dir = mkdtempSync(join(tmpdir(), 'cloudnexus-matrix-'))
  after(() => rmSync(data_dir, { recursive: true, force: true }))
  const passes = new Map<string, Claim>()
  const base = await createTestApp((sql) => {
    const simulated = createSimulatedDriver({ sql, seed: 1 })
    const machines = mutant.driver?.(simulated, ownerOf(sql)) ?? simulated
    const faulty = lockedDriver(machines, async ({ method, id }, effect) => {
      const result = await faults.at(`driver ${method}`, effect)
      const claimed = passes.get(id ?? '')
      if (method === 'get' && claimed) await watch.observed?.(claimed, result as ObservedMachine | null)
      return result
    })
    const driver = mutant.faulty_driver?.(faulty) ?? faulty
    return {
      config: { ...testConfig, data_dir, image_allow: ['127.0.0.0/8'] },
      regions: [{ id: 'us-east-1', name: 'This host', drivers: { live: driver, test: driver } }],
      log: silentLog,
    }
  })
  const { deps, owner } = base
  await owner`insert into environments (id, mode) values ('env_system', 'system') on conflict do nothing`
  await owner`update environments set clock_frozen_at = now() where id = 'env_system'`
  await owner.unsafe(ENDLESS_LEASES)
  await owner`insert into address_pools (id, range) values ('public:live:us-east-1', '127.90.1.0/24')`
  await owner.begin((tx) => syncCatalogue(tx, CATALOGUE))
  await installProbes(owner)

  const transaction = <T>(effect: (commits: boolean) => Promise<T>) =>
    faults.at('transaction', () => effect(true), { attempt: () => effect(false), error: noResponse })
  const reconciling = faultySql(deps.sql, {
    transaction,
    statement: (_, effect) => faults.at('statement', () => effect(), { error: noResponse }),
  })
  const reconcilingDeps: Deps = { ...deps, sql: mutant.sql?.(reconciling) ?? reconciling }
  const writing = faultySql(deps.sql, { transaction, statement: (_, effect) => effect() })
  const faulty_app = await createApp({ ...deps, sql: writing }, { ready: async () => [] })

  function reconcilersWithFaults(): Reconcilers {
    const all = { ...allReconcilers(reconcilingDeps), image: withImporter(reconcilingDeps, faults) }
    return Object.fromEntries(
      Object.entries(all).map(([kind, reconcile]) => [
        kind,
        (claimed: Claim) =>
          faults.within(`${kind} ${claimed.id}`, () => {
            watch.pass?.(claimed)
            passes.set(claimed.id, claimed)
            return reconcile(claimed)
          }),
      ]),
    )
  }

  let receiver: Server | null = null
  return {
    async receiverUrl() {
      receiver ??= createServer((request, response) => {
        request.resume().on('end', () => response.writeHead(request.url === '/gone' ? 410 : 204).end())
      }).listen(0, '127.0.0.1')
      if (!receiver.listening) await once(receiver, 'listening')
      return `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
    },
    ...{ app: base.app, owner, deps, faults, data_dir, faulty_app, watch, kinds: Object.keys(allReconcilers(deps)) },
    async worker(name) {
      let active = 0
      let claiming = 0
      const sql = faultySql(mutant.engine_sql?.(deps.sql) ?? deps.sql, {
        transaction: (effect) => effect(true),
        statement(compiled, effect) {
          if (/for update skip locked/.test(compiled.text)) {
            claiming++
            return effect().finally(() => claiming--)
          }
          const name = finishedKey(compiled)
          return name === null ? effect() : faults.at('finish', () => effect(), { name, error: noResponse })
        },
      })
      const engine = createEngine({
        // No polls and no renewals.
        clock: { ...systemClock, after: () => ({ cancel() {} }) },
        ...{ sql, log: silentLog, worker: name, reconcilers: reconcilersWithFaults(), concurrency: 10_000 },
        observer: { claimed: () => void active++, stepped: () => void active-- },
      })
      await engine.start()
      return { engine, active: () => active, isClaiming: () => claiming > 0 }
    },
    async tenant() {
      const made = await createTestTenant(deps)
      const { project_id } = made.live.principal
      await Promise.all([openNetworks(owner, made), removeQuotas(owner, project_id)])
      await owner`update environments set clock_frozen_at = ${START} where project_id = ${project_id}`
      return made
    },
    async close() {
      receiver?.close()
      receiver?.closeAllConnections()
      await base.app.close()
    },
  }
}

/** The reconcilers of all pools, in one engine. */
const allReconcilers = (deps: Deps): Reconcilers =>
  Object.assign({}, ...pools(deps).map((pool) => pool.reconcilers)) as Reconcilers

/** The key whose pass this statement finishes, as the name of a subject; null if it is another statement. */
function finishedKey({ text, values }: { text: string; values: unknown[] }): string | null {
  const isFinish =
    /^\s*(delete from work|update work w set leased_by = null)/.test(text) && !/w\.attempts \+ 1/.test(text)
  if (!isFinish) return null
  const at = values.findIndex((value) => typeof value === 'string' && /^[a-z_]+$/.test(value))
  return `${values[at]} ${values[at + 1]}`
}

/** An importer without a process: an import ends immediately. */
function withImporter(deps: Deps, faults: Faults): Reconcilers[string] {
  const importer: Importer = {
    start: (folder) => faults.atSync('importer start', () => pretendImport(folder)),
    running: () => null,
  }
  const onImportEnd = wakeInstancesWaitingForImage
  return (claimed) =>
    imageReconciler({ ...deps, sql: deps.sql.as(claimed.environment_id), onImportEnd }, importer)(claimed)
}

function pretendImport(folder: string): void {
  const paths = jobPaths(folder)
  if (existsSync(paths.status)) return
  mkdirSync(paths.output, { recursive: true })
  writeFileSync(paths.disk, '')
  const manifest = { format: 'qcow2', virtual_size_bytes: 1024, boot: null, seed: 'nocloud', ready_signal: 'guest' }
  writeFileSync(paths.manifest, JSON.stringify({ ...manifest, ssh_user: null }))
  const refused = readFileSync(paths.job, 'utf8').includes(REFUSED)
  const error = refused ? { code: 'image_checksum_mismatch', message: 'The checksum does not match.' } : null
  const status = { state: refused ? 'failed' : 'done', phase: 'verifying', progress: 1, done_bytes: 1, total_bytes: 1 }
  writeFileSync(paths.status, JSON.stringify({ ...status, message: null, error, pid: 1, updated_at: START }))
}
