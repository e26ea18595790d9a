import type { Sql } from '../db/database.ts'
import { createNotifier } from '../db/notify.ts'
import type { Deps } from '../deps.ts'
import type { Driver } from '../drivers/driver.ts'
import { createSimulatedDriver } from '../drivers/simulated/driver.ts'
import type { Engine } from '../engine/loop.ts'
import { createEngines } from '../engine/pools.ts'
import { WORK_CHANNEL } from '../engine/work.ts'
import { type Call, caller, createTestApp, createTestTenant, type TestApp, type TestTenant } from '../http/testing.ts'
import { CATALOGUE } from '../images/catalog.ts'
import { syncCatalogue } from '../images/store.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { pools } from '../reconcilers.ts'
import { until } from '../testing/until.ts'

export type World = TestApp & {
  engine: Engine
  /** Sends requests with the key of the test environment, whose instances have simulated machines. */
  callTest: Call
  /** Advances the frozen clock of the test environment and wakes the engine. */
  advance(seconds: number): Promise<void>
  /** Advances the clock, second by second, until the instance of the test environment has the status. */
  pass(id: string, status: string): Promise<any>
  /** Polls until the instance has the status. */
  reach(id: string, status: string, call?: Call): Promise<any>
  /** Creates another project with networks. */
  tenant(): Promise<TestTenant>
  stop(): Promise<void>
}

/**
 * The control plane with a real database, a real engine and simulated machines, also in the live environment unless
 * `live` gives a driver. The clock of the test environment is frozen. `boot` returns the boot ID of the simulated host.
 */
export async function createWorld(
  options: { live?: (sql: Sql) => Driver; seed?: number; boot?: () => string; deps?: Partial<Deps> } = {},
): Promise<World> {
  const seed = options.seed ?? 1
  const base = await createTestApp((sql) => {
    const test = createSimulatedDriver({ sql, seed, ...(options.boot && { boot: options.boot }) })
    const live = options.live?.(sql) ?? test
    return {
      regions: [{ id: 'us-east-1', name: 'This host', drivers: { live, test } }],
      notifier: createNotifier(sql, systemClock, WORK_CHANNEL),
      ...options.deps,
    }
  })
  const { deps, owner } = base
  await deps.notifier.start()
  await owner`insert into environments (id, mode) values ('env_system', 'system') on conflict do nothing`
  await owner`insert into address_pools (id, range) values ('public:live:us-east-1', '127.90.1.0/24')`
  await owner.begin((tx) => syncCatalogue(tx, CATALOGUE))
  await openNetworks(owner, base)
  const testEnvironment = base.test.principal.environment_id
  await owner`update environments set clock_frozen_at = '2030-01-01' where id = ${testEnvironment}`
  const engine = createEngines(
    { sql: deps.sql, clock: systemClock, log: silentLog, worker: 'test', poll_ms: 50 },
    pools(deps),
  )
  await engine.start()
  const callTest = caller(base.app, base.test.key)
  const world: World = {
    ...base,
    engine,
    callTest,
    async advance(seconds) {
      await owner`
        update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${seconds})
        where id = ${testEnvironment}`
      engine.nudge()
    },
    async pass(id, status) {
      for (let seconds = 0; seconds < 3_000; seconds++) {
        const { body } = await callTest('GET', `/v2/instances/${id}`)
        if (body.status === status) return body
        await world.advance(1)
        await systemClock.sleep(10)
        await waitForPass(owner, id)
      }
      throw new Error(`${id} does not become ${status}`)
    },
    async reach(id, status, call = callTest) {
      const get = async () => (await call('GET', `/v2/instances/${id}`)).body
      await until(`${id} is ${status}`, async () => (await get()).status === status)
      return get()
    },
    async tenant() {
      const made = await createTestTenant(deps)
      await openNetworks(owner, made)
      return made
    },
    async stop() {
      await engine.stop(5_000)
      await deps.notifier.stop()
      await base.app.close()
    },
  }
  return world
}

/** Waits up to 2 s while the instance's key is due or claimed, so that a slow engine does not act at a later time. */
async function waitForPass(sql: Sql, id: string): Promise<void> {
  const deadline = performance.now() + 2_000
  while (performance.now() < deadline) {
    const { count } = await sql`
      select from work where kind = 'instance' and id = ${id} and not_before <= now()
        and (due_at <= environment_now(environment_id) or leased_until > now())`
    if (count === 0) return
    await systemClock.sleep(5)
  }
}

/** Creates the address pools and default subnets of both environments, as the first start does. */
export async function openNetworks(sql: Sql, tenant: TestTenant): Promise<void> {
  for (const { principal } of [tenant.live, tenant.test]) {
    const environment = principal.environment_id
    const pool = `subnet:${environment}:sub_8f7e6d5c4b`
    await sql`insert into address_pools (id, environment_id, range)
      values (${pool}, ${environment}, '10.64.0.0/16'), (${`public:${environment}`}, ${environment}, '198.18.0.0/15')`
    await sql`
      insert into subnets (environment_id, id, region, name, range, pool_id, segment, is_default, created_at)
      values (${environment}, 'sub_8f7e6d5c4b', 'us-east-1', 'default', '10.64.0.0/16', ${pool},
        ${principal.mode === 'live' ? sql`nextval('subnet_segments')` : null}, true, now())`
  }
}
