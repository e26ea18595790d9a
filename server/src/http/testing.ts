import assert from 'node:assert/strict'
import type { Readable } from 'node:stream'
import { after } from 'node:test'
import { createApp } from '../app.ts'
import { type Config, defaultSettings } from '../config.ts'
import type { Sql } from '../db/database.ts'
import type { Notifier } from '../db/notify.ts'
import { createTestDatabase, ownerOf, type TestDatabase } from '../db/testing.ts'
import { secretsIn } from '../db/testing-canary.ts'
import type { Deps, Region } from '../deps.ts'
import type { Capacity, Driver } from '../drivers/driver.ts'
import type { Principal } from '../keys/principal.ts'
import { SCOPES, type Scope } from '../keys/scopes.ts'
import { createKey, createKeyLookup, PROJECT_SCOPES } from '../keys/store.ts'
import { systemClock } from '../lib/clock.ts'
import { newId } from '../lib/id.ts'
import { createLog, type Log } from '../lib/log.ts'
import { createMetrics } from '../lib/metrics.ts'
import { openConnection } from '../lib/outbound-connection.ts'
import { systemRandom } from '../lib/random.ts'
import type { RateLimits } from '../rate-limits/policies.ts'
import { createRequestLog } from '../requests/recorder.ts'
import { type CheckResponse, createResponseCheck } from './testing-responses.ts'
import type { App } from './types.ts'

/** Sizes of the host that tests imagine: room for a standard-4x, not for a standard-8x. */
export const TEST_CAPACITY = { vcpus: 16, memory_bytes: 12 * 2 ** 30, disk_bytes: 100 * 2 ** 30 }

/** More than any test asks for, so that only the tests of the limits meet them. */
const PLENTY = { rate_per_second: 1_000_000, burst: 1_000_000 }
const ROOMY: RateLimits = {
  enabled: true,
  keys_per_project: 5,
  reads: PLENTY,
  writes: PLENTY,
  creates: PLENTY,
  test_writes: PLENTY,
  test_creates: PLENTY,
  unauthenticated: PLENTY,
  failed_authentication: PLENTY,
}

/** The default settings, except for what tests depend on. */
export const testConfig: Config = {
  ...defaultSettings(),
  version: '0.0.0',
  public_url: 'http://localhost:8080',
  data_dir: '/nonexistent',
  run_dir: '/nonexistent',
  log_level: 'silent',
  region: { id: 'us-east-1', name: 'This host' },
  plans: [
    { id: 'micro-1x', vcpus: 1, memory_bytes: 128 * 2 ** 20, disk_bytes: 2 ** 30 },
    { id: 'standard-4x', vcpus: 4, memory_bytes: 8 * 2 ** 30, disk_bytes: 40 * 2 ** 30 },
    { id: 'standard-8x', vcpus: 8, memory_bytes: 16 * 2 ** 30, disk_bytes: 80 * 2 ** 30 },
  ],
  image_allow: [],
  image_max_bytes: 2 ** 20,
  mirrors: {},
  rate_limits: ROOMY,
}

const ZEROS = new Uint8Array(32)

/** Enough of a driver for routes, which only ask what there is. */
function idleDriver(name: Driver['name'], capacity: Capacity): Driver {
  const hypervisor = { name: name === 'qemu' ? 'QEMU' : 'simulated', accelerator: 'none' as const, reason: 'a test' }
  return { name, resync_seconds: 60, hypervisor: () => hypervisor, capacity: () => capacity } as Driver
}

/** Nobody listens: tests of routes look at rows. */
const idleNotifier: Notifier = {
  announce() {},
  changed() {},
  onChange() {},
  nextChange: (_id, ms, signal) => systemClock.sleep(ms, signal),
  async start() {},
  async stop() {},
}

/** The real log, searched for secrets when the tests of the file are over. */
function testLog(): Log {
  const found: string[] = []
  const stream = { write: (line: string) => void found.push(...secretsIn(line), ...(/\n./.test(line) ? [line] : [])) }
  after(() => assert.deepEqual(found, [], 'secrets, or records of more than a line, stand in the log'))
  const log = createLog({ level: 'debug', pretty: false, destination: stream })
  // A plain object, which tests can spread.
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: (fields, message) => log.info(fields, message),
    warn: (fields, message) => log.warn(fields, message),
    error: (fields, message) => log.error(fields, message),
    child: (fields) => log.child(fields),
  }
}

/** A project with both environments, a key for each, and the app on a database of its own. */
export async function createTestApp(overrides: (sql: Sql) => Partial<Deps> = () => ({})): Promise<TestApp> {
  const { sql, owner, urls } = await createTestDatabase()
  const region: Region = {
    id: 'us-east-1',
    name: 'This host',
    drivers: { live: idleDriver('qemu', TEST_CAPACITY), test: idleDriver('simulated', null) },
  }
  const log = testLog()
  const secrets = { pepper: ZEROS, cursor_key: ZEROS, seal_key: ZEROS, database_key: ZEROS }
  const deps: Deps = {
    config: testConfig,
    sql,
    clock: systemClock,
    random: systemRandom,
    // Nothing of a test leaves this host.
    resolve: () => Promise.reject(new Error('no names in tests')),
    openConnection,
    log,
    secrets,
    regions: [region],
    notifier: idleNotifier,
    requests: createRequestLog({ sql, clock: systemClock, random: systemRandom, log, days: 14 }),
    metrics: createMetrics(),
    keys: createKeyLookup({ sql, clock: systemClock, pepper: secrets.pepper }),
    stopping: new AbortController().signal,
    ...overrides(sql),
  }
  const app = await createApp(deps, { ready: async () => [{ name: 'database', problem: null }] })
  const tenant = await createTestTenant(deps)
  return { app, deps, owner, urls, ...tenant, call: caller(app, tenant.live.key) }
}

/** `deps.sql` has the roles of the real thing, and `urls` theirs; `owner` is for what a test prepares and looks at. */
export type TestApp = { app: App; deps: Deps; owner: Sql; urls: TestDatabase['urls']; call: Call } & TestTenant
export type TestTenant = { live: TestKey; test: TestKey }
export type TestKey = { key: string; principal: Principal }

/** A project: the first may make others. */
export async function createTestTenant(deps: Deps): Promise<TestTenant> {
  const project_id = newId('proj', deps.random)
  const sql = ownerOf(deps.sql)
  const isFirst = (await sql`select from projects`).count === 0
  await sql`insert into projects (id, name, created_at) values (${project_id}, 'test', now())`
  const environment = async (mode: 'live' | 'test') => {
    const environment_id = newId('env', deps.random)
    await sql`insert into environments (id, project_id, mode) values (${environment_id}, ${project_id}, ${mode})`
    return createTestKey(deps, { project_id, environment_id, mode }, isFirst ? SCOPES : PROJECT_SCOPES)
  }
  return { live: await environment('live'), test: await environment('test') }
}

/** A key with these scopes in an environment. */
export async function createTestKey(
  deps: Deps,
  owner: Pick<Principal, 'project_id' | 'environment_id' | 'mode'>,
  scopes: readonly Scope[],
): Promise<TestKey> {
  const { id, key } = await createKey(ownerOf(deps.sql), deps.secrets, deps.random, { ...owner, name: 'test', scopes })
  return { key, principal: { ...owner, key_id: id, scopes: [...scopes], allowed_addresses: null, budget_id: null } }
}

export type Response = { status: number; headers: Record<string, string | undefined>; body: any }
export type Call = (method: string, url: string, body?: unknown, headers?: Record<string, string>) => Promise<Response>

const checks = new WeakMap<App, CheckResponse>()

/**
 * Calls the app with this key, without a socket; every answer must be as the OpenAPI document says. Of a stream the
 * answer is its first part.
 */
export function caller(app: App, key: string): Call {
  return async (method, url, body, headers = {}) => {
    const response = await app.inject({
      method: method as 'GET',
      url,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body !== undefined && {
        payload: Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body),
      }),
      payloadAsStream: true,
    })
    const text = await textOf(response)
    const json = /[/+]json\b/.test(String(response.headers['content-type'])) && text !== ''
    const answer: Response = {
      status: response.statusCode,
      headers: response.headers as never,
      body: json ? JSON.parse(text) : text,
    }
    if (!checks.has(app)) checks.set(app, createResponseCheck(app.swagger() as never))
    checks.get(app)!(method, url, answer)
    return answer
  }
}

type Injected = {
  headers: Record<string, unknown>
  stream(): Readable
  raw: { res: { req: { destroy(): void }; destroy(): void } }
}

/** The body of an injected request; of a stream of events only the first part, after which the client leaves. */
export async function textOf({ headers, stream, raw }: Injected): Promise<string> {
  const onlyFirst = String(headers['content-type']).startsWith('text/event-stream')
  const parts: Buffer[] = []
  for await (const part of stream()) {
    parts.push(part)
    if (!onlyFirst) continue
    raw.res.req.destroy()
    raw.res.destroy()
    break
  }
  return Buffer.concat(parts).toString()
}
