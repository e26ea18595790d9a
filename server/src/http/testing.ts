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
import { createKeyLookup } from '../keys/lookup.ts'
import type { Principal } from '../keys/principal.ts'
import { SCOPES, type Scope } from '../keys/scopes.ts'
import { createKey, PROJECT_SCOPES } from '../keys/store.ts'
import { systemClock } from '../lib/clock.ts'
import { newId } from '../lib/id.ts'
import { createLog, type Log } from '../lib/log.ts'
import { createMetrics } from '../lib/metrics.ts'
import { openConnection } from '../lib/outbound-connection.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'
import { systemRandom } from '../lib/random.ts'
import type { RateLimits } from '../rate-limits/policies.ts'
import { createRequestLog } from '../requests/recorder.ts'
import { type CheckResponse, createResponseCheck } from './testing-responses.ts'
import type { App } from './types.ts'

/** Capacity of the host in tests: enough for a standard-4x, but not for a standard-8x. */
export const TEST_CAPACITY = { vcpus: 16, memory_bytes: 12 * 2 ** 30, disk_bytes: 100 * 2 ** 30 }

/** So high that only the tests of rate limits reach them. */
const HIGH_LIMIT = { rate_per_second: 1_000_000, burst: 1_000_000 }
const HIGH_LIMITS: RateLimits = {
  enabled: true,
  keys_per_project: 5,
  reads: HIGH_LIMIT,
  writes: HIGH_LIMIT,
  creates: HIGH_LIMIT,
  test_writes: HIGH_LIMIT,
  test_creates: HIGH_LIMIT,
  unauthenticated: HIGH_LIMIT,
  failed_authentication: HIGH_LIMIT,
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
  allow_tenant_loopback: true,
  imports_per_host: 1_000,
  imports_per_project: 1_000,
  image_max_bytes: 2 ** 20,
  mirrors: {},
  rate_limits: HIGH_LIMITS,
}

const ZEROS = new Uint8Array(32)

/** A driver without machines, for routes that only read its name, hypervisor and capacity. */
function idleDriver(name: Driver['name'], capacity: Capacity): Driver {
  const hypervisor = { name: name === 'qemu' ? 'QEMU' : 'simulated', accelerator: 'none' as const, reason: 'a test' }
  return {
    name,
    resync_seconds: 60,
    hypervisor: () => hypervisor,
    isolation: () => null,
    capacity: () => capacity,
  } as Driver
}

/** A notifier without listeners: tests of routes read rows. */
const idleNotifier: Notifier = {
  announce() {},
  changed() {},
  onChange() {},
  nextChange: (_id, ms, signal) => systemClock.sleep(ms, signal),
  async start() {},
  async stop() {},
}

/** The real log. It fails the test file at its end if a line contains a secret. */
function testLog(): Log {
  const found: string[] = []
  const stream = { write: (line: string) => void found.push(...secretsIn(line), ...(/\n./.test(line) ? [line] : [])) }
  after(() => assert.deepEqual(found, [], 'the log contains secrets, or records of several lines'))
  const log = createLog({ level: 'debug', pretty: false, destination: stream })
  // A plain object, so that tests can spread it.
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: (fields, message) => log.info(fields, message),
    warn: (fields, message) => log.warn(fields, message),
    error: (fields, message) => log.error(fields, message),
    child: (fields) => log.child(fields),
  }
}

/** An app with its own database, and a project with both environments and a key for each. */
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
    // Tests make no requests to other hosts.
    resolve: () => Promise.reject(new Error('tests do not resolve names')),
    openConnection,
    imageSpaceBytes: () => Number.MAX_SAFE_INTEGER,
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

/** `deps.sql` and `urls` have the roles of production; `owner` is for setup and assertions. */
export type TestApp = { app: App; deps: Deps; owner: Sql; urls: TestDatabase['urls']; call: Call } & TestTenant
export type TestTenant = { live: TestKey; test: TestKey }
export type TestKey = { key: string; principal: Principal }

/** Creates a project. The first one has the scopes of the operator. */
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

/** Removes the default quotas of a project, for tests that create many resources. */
export async function removeQuotas(sql: Sql, projectId: string): Promise<void> {
  const quotas = Object.fromEntries(QUOTA_NAMES.map((name) => [name, null]))
  await sql`
    update environment_heads set quota = ${quotas}
    where environment_id in (select id from environments where project_id = ${projectId})`
}

/** Creates a key with these scopes in an environment. */
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
 * Sends requests to the app with this key, without a socket. Every response is checked against the OpenAPI document. Of
 * an event stream, only the first part is read.
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
    const result: Response = {
      status: response.statusCode,
      headers: response.headers as never,
      body: json ? JSON.parse(text) : text,
    }
    if (!checks.has(app)) checks.set(app, createResponseCheck(app.swagger() as never))
    checks.get(app)!(method, url, result)
    return result
  }
}

type Injected = {
  headers: Record<string, unknown>
  stream(): Readable
  raw: { res: { req: { destroy(): void }; destroy(): void } }
}

/** The body of an injected request. Of an event stream only the first part; then the client disconnects. */
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
