/**
 * The delivery of events: deliveries per second to one endpoint and to ten, compared with a plain undici loop that posts
 * bodies of the same size to the same receiver over as many connections; and the time from the commit of an event to the
 * receiver's first byte at 100 events per second, alone and while the endpoints of another tenant hang.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Agent } from 'undici'
import { connect } from '../server/src/db/database.ts'
import { migrate } from '../server/src/db/migrate.ts'
import { createNotifier } from '../server/src/db/notify.ts'
import { openRoles } from '../server/src/db/roles.ts'
import { startTestServer } from '../server/src/db/test-server.ts'
import type { Deps } from '../server/src/deps.ts'
import { createEngines } from '../server/src/engine/pools.ts'
import { WORK_CHANNEL } from '../server/src/engine/work.ts'
import { withOutbox } from '../server/src/events/outbox.ts'
import { testConfig } from '../server/src/http/testing.ts'
import { createKeyLookup } from '../server/src/keys/lookup.ts'
import { systemClock as clock } from '../server/src/lib/clock.ts'
import { silentLog as log } from '../server/src/lib/log.ts'
import { createMetrics } from '../server/src/lib/metrics.ts'
import { openConnection } from '../server/src/lib/outbound-connection.ts'
import { systemRandom as random } from '../server/src/lib/random.ts'
import { seal } from '../server/src/lib/secret-box.ts'
import { pools } from '../server/src/reconcilers.ts'
import { createRequestLog } from '../server/src/requests/recorder.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 5)
const EVENTS = Number(process.env.EVENTS ?? 2_000)
const CONNECTIONS = 5
const PACED_SECONDS = 10
const PER_SECOND = 100
const print = (line: string) => process.stdout.write(`webhooks: ${line}\n`)

const server = await startTestServer()
const owner = connect({ url: server.url, max: 4, name: 'bench-owner' })
await migrate(owner)
const urls = await openRoles(owner, server.url, 'bench', new Uint8Array(32))
const sql = connect({ url: urls.cn_engine, max: 10, name: 'bench', tenants: { url: urls.cn_app, max: 10 } })
const secret = new Uint8Array(32)
const deps: Deps = {
  ...{ config: testConfig, sql, clock, random, log, metrics: createMetrics(), regions: [] },
  secrets: { pepper: secret, cursor_key: secret, seal_key: secret, database_key: secret },
  resolve: async () => [],
  imageSpaceBytes: () => Number.MAX_SAFE_INTEGER,
  openConnection,
  notifier: createNotifier(sql, clock, WORK_CHANNEL),
  requests: createRequestLog({ sql, clock, random, log, days: 14 }),
  keys: createKeyLookup({ sql, clock, pepper: secret }),
  stopping: new AbortController().signal,
}
await deps.notifier.start()
const engine = createEngines({ sql, clock, log, worker: 'bench' }, pools(deps).slice(1))
await engine.start()
const child = fork(join(import.meta.dirname, 'lib/receiver-process.ts'), { stdio: 'inherit' })
const [{ port }] = (await once(child, 'message')) as [{ port: number }]
const url = `http://127.0.0.1:${port}`
try {
  await throughput(1)
  await throughput(10)
  await latency('alone', 0)
  await latency('while 40 endpoints of another tenant hang', 40)
} finally {
  child.disconnect()
  await engine.stop(3_000)
  await deps.notifier.stop()
  await sql.end({ timeout: 1 })
  await owner.end({ timeout: 1 })
  await server.stop()
}
process.exit(0)

/** Creates an environment with `hooks` webhooks whose URLs have this path. */
async function environment(name: string, path: string, hooks: number) {
  const environment_id = `env_${name}`
  await owner`insert into projects (id, name, created_at) values (${name}, ${name}, now())`
  await owner`insert into environments (id, project_id, mode) values (${environment_id}, ${name}, 'live')`
  const key = `key_${name}`
  await owner`insert into api_keys (id, environment_id, name, digest, prefix, scopes, created_at)
    values (${key}, ${environment_id}, 'bench', ${Buffer.from(name)}, '', ${['instances:read']}, now())`
  for (let i = 0; i < hooks; i++) {
    const sealed = seal(secret, random.bytes(32), random)
    await owner`
      insert into webhooks (environment_id, id, url, events, description, wanted_enabled, secret, key_id, created_at, updated_at)
      values (${environment_id}, ${`whk_${name}${i}`}, ${url + path}, ${['*']}, '', true, ${sealed}, ${key}, now(), now())`
  }
  await owner`update environment_heads set webhooks = ${hooks} where environment_id = ${environment_id}`
  return { environment_id, mode: 'live' as const }
}

/** Emits `count` events in one transaction, each of the size of an instance. */
function emit(tenant: Awaited<ReturnType<typeof environment>>, count: number): Promise<void> {
  const object = { object: 'instance' as const, id: 'inst_3x9y2z1a0b', version: 1, text: 'x'.repeat(900) }
  return withOutbox(deps, tenant, async (_tx, outbox) => {
    for (let i = 0; i < count; i++) {
      outbox.events.push({ type: 'instance.updated', resource_id: object.id, request_id: null, data: { object } })
    }
  })
}

async function throughput(hooks: number): Promise<void> {
  const tenant = await environment(`rate${hooks}`, '/', hooks)
  const events = EVENTS / hooks
  const rates: { ours: number[]; plain: number[] } = { ours: [], plain: [] }
  const measures = {
    ours: () => ourRate(tenant, events, hooks),
    plain: () => plainRate(events * hooks, CONNECTIONS * hooks),
  }
  for (let round = 0; round <= ROUNDS; round++) {
    const order = ['ours', 'plain'] as const
    for (const name of round % 2 ? order.toReversed() : order) {
      const rate = await measures[name]()
      if (round > 0) rates[name].push(rate)
    }
  }
  const pairs = rates.ours.map((rate, i) => rate / rates.plain[i]!)
  const what = hooks === 1 ? 'one endpoint' : `${hooks} endpoints`
  print(
    `${what}: ${summary(rates.ours, 'deliveries/s')}; plain undici, ${CONNECTIONS * hooks} connections: ${summary(rates.plain, '/s')}`,
  )
  print(`${what}: median of the pairs' ratios ${median(pairs).toFixed(3)}`)
}

/** Deliveries per second, from the first event until the last success is recorded. */
async function ourRate(
  tenant: Awaited<ReturnType<typeof environment>>,
  events: number,
  hooks: number,
): Promise<number> {
  const begin = performance.now()
  for (let i = 0; i < events; i += 100) await emit(tenant, Math.min(100, events - i))
  const pending = () => owner`
    select from webhook_deliveries where environment_id = ${tenant.environment_id} and status = 'pending' limit 1`
  while ((await pending()).count > 0) await clock.sleep(20)
  const rate = (events * hooks * 1000) / (performance.now() - begin)
  await times(child)
  return rate
}

async function plainRate(requests: number, connections: number): Promise<number> {
  const agent = new Agent({ connections, pipelining: 1 })
  const body = JSON.stringify({ data: { object: { text: 'x'.repeat(1_100) } } })
  const headers = { 'content-type': 'application/json', 'webhook-id': 'plain' }
  let left = requests
  const begin = performance.now()
  const loop = async () => {
    while (left-- > 0) {
      const response = await agent.request({ origin: url, path: '/', method: 'POST', headers, body })
      await response.body.dump()
    }
  }
  await Promise.all(Array.from({ length: connections }, loop))
  const rate = (requests * 1000) / (performance.now() - begin)
  await agent.close()
  await times(child)
  return rate
}

async function latency(what: string, hanging: number): Promise<void> {
  const tenant = await environment(`paced${hanging}`, '/', 1)
  const other = hanging > 0 ? await environment('hangs', '/hangs', hanging) : null
  if (other) await emit(other, 200)
  for (let i = 0; i < PACED_SECONDS * PER_SECOND; i++) {
    void emit(tenant, 1)
    if (other && i % 10 === 0) void emit(other, 1)
    await clock.sleep(1000 / PER_SECOND)
  }
  await clock.sleep(2_000)
  const arrived = await times(child)
  const rows = await owner<{ id: string; at: number }[]>`
    select id, extract(epoch from recorded_at)::float8 * 1000 as at from events where environment_id = ${tenant.environment_id}`
  const waits = rows.map(({ id, at }) => (arrived[id] ?? Number.POSITIVE_INFINITY) - at).sort((a, b) => a - b)
  const at = (share: number) => waits[Math.floor(waits.length * share)]!.toFixed(1)
  const lost = waits.filter((wait) => wait === Number.POSITIVE_INFINITY).length
  print(
    `commit to first byte at ${PER_SECOND}/s, ${what}: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, n=${waits.length}, lost ${lost}`,
  )
}

async function times(from: ChildProcess): Promise<Record<string, number>> {
  from.send('times')
  return ((await once(from, 'message')) as [Record<string, number>])[0]
}
