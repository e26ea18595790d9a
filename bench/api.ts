/**
 * The API's most frequent requests, compared with two upper limits measured in the same run: a bare Fastify route without
 * a database, and pgbench on the same PostgreSQL server. Quote the ratios: absolute figures differ from machine to
 * machine and from minute to minute.
 *
 * `npm run bench api -- --against FOLDER` compares this control plane with that of another checkout, which has its
 * dependencies, in short slices that alternate between both; see lib/pairs.ts.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import { ControlPlane, run } from '../e2e/control-plane.ts'
import { connect, type Sql } from '../server/src/db/database.ts'
import { until } from '../server/src/testing/until.ts'
import { comparePairs, type Request } from './lib/pairs.ts'
import { median } from './lib/statistics.ts'
import { wrk } from './lib/wrk.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 5)
const PAIRS = Number(process.env.PAIRS ?? 150)
/** After each slice of creates the engine has work, which takes longer than the slice. */
const CREATE_PAIRS = Math.ceil(PAIRS / 2)
const SECONDS = 3
/** Rate limits that are enforced and measured, but never reached. */
const PLENTY = { rate_per_second: 1_000_000, burst: 1_000_000 }
const RAISED = { reads: PLENTY, writes: PLENTY, creates: PLENTY, test_writes: PLENTY, test_creates: PLENTY }
const INSTANCE = {
  region: 'us-east-1',
  plan: 'micro-1x',
  image: 'micro-linux',
  network: { assign_public_ip: true },
}

/** A control plane, its database, its first instance, and requests per second of each round. */
type Side = { plane: ControlPlane; sql: Sql; id: string; figures: Map<string, number[]> }

const { against } = parseArgs({ args: process.argv.slice(3), options: { against: { type: 'string' } } }).values
const folder = mkdtempSync(join(tmpdir(), 'cn-bench-'))
const sides: Side[] = []
const bare = Fastify()
bare.get('/', async () => ({ id: 'inst_3x9y2z1a0b', status: 'running', region: 'us-east-1', plan: 'micro-1x' }))
await bare.listen({ port: 0, host: '127.0.0.1' })
try {
  const side = await startSide()
  sides.push(side)
  if (against === undefined) {
    await measure(side)
    report(side)
  } else {
    const other = await startSide(resolve(against))
    sides.push(other)
    await compare(side, other)
  }
} finally {
  await bare.close()
  for (const { plane, sql } of sides) {
    await sql.end()
    await plane.teardown()
  }
  rmSync(folder, { recursive: true, force: true })
}

async function startSide(checkout?: string): Promise<Side> {
  const plane = await ControlPlane.create({
    env: { CLOUDNEXUS_LOG_LEVEL: 'warn' },
    config: { rate_limits: RAISED },
    ...(checkout === undefined ? {} : { checkout }),
  })
  const { body } = await plane.call('POST', '/v2/instances', INSTANCE, plane.credentials.test_key)
  await until('the instance runs', async () => {
    const { body: instance } = await plane.call(
      'GET',
      `/v2/instances/${body.id}`,
      undefined,
      plane.credentials.test_key,
    )
    return instance.status === 'running'
  })
  return { plane, sql: connect({ url: plane.database_url, max: 2, name: 'bench' }), id: body.id, figures: new Map() }
}

async function measure(side: Side): Promise<void> {
  await fill(side, 1_000)
  for (let i = 0; i < ROUNDS; i++) {
    record(side, 'bare Fastify route', await wrk(bare.listeningOrigin, SECONDS))
    record(side, 'pgbench select', await pgbench(side))
    record(side, 'GET one', await get(side, `/v2/instances/${side.id}`))
    record(side, 'list of 20 among 1,000', await get(side, '/v2/instances'))
  }
  await fill(side, 100_000)
  for (let i = 0; i < ROUNDS; i++) {
    record(side, 'list of 20 among 100,000', await get(side, '/v2/instances'))
    record(side, 'GET one among 100,000', await get(side, `/v2/instances/${side.id}`))
    record(side, 'bare Fastify route', await wrk(bare.listeningOrigin, SECONDS))
  }
  for (let i = 0; i < ROUNDS; i++) {
    record(side, 'POST', await wrk(`${url(side)}/v2/instances`, SECONDS, key(side), JSON.stringify(INSTANCE)))
    await untilIdle(side)
  }
}

/** Compares both sides request by request, and prints each figure as a part of the other side's. */
async function compare(side: Side, other: Side): Promise<void> {
  const body = JSON.stringify(INSTANCE)
  const figures: { name: string; count: number; path: (side: Side) => string; body?: string }[] = [
    { name: 'GET one among 1,000', count: 1_000, path: ({ id }) => `/v2/instances/${id}` },
    { name: 'list of 20 among 1,000', count: 1_000, path: () => '/v2/instances' },
    // Creates add rows, and the wait after them reads all rows.
    { name: 'POST', count: 1_000, path: () => '/v2/instances', body },
    { name: 'GET one among 100,000', count: 100_000, path: ({ id }) => `/v2/instances/${id}` },
    { name: 'list of 20 among 100,000', count: 100_000, path: () => '/v2/instances' },
  ]
  for (const { name, count, path, body } of figures) {
    await fill(side, count)
    await fill(other, count)
    const target = (of: Side) => {
      const request: Request = { path: path(of), key: key(of), ...(body && { body }) }
      return { origin: url(of), request, ...(body && { rest: () => untilIdle(of) }) }
    }
    const found = await comparePairs([target(side), target(other)], body ? CREATE_PAIRS : PAIRS)
    const [own, before] = found.rates.map((rate) => rate.toFixed(0))
    process.stdout.write(
      `api: ${name.padEnd(26)} ${found.ratio.toFixed(3)} of the other checkout (95 %: ${found.low.toFixed(3)}–${found.high.toFixed(3)}, ${found.pairs} pairs; ${own}/s and ${before}/s)\n`,
    )
  }
}

async function untilIdle({ sql }: Side): Promise<void> {
  await until('the engine is idle', async () => {
    const rows = await sql`select from instances where status = 'provisioning' limit 1`
    return rows.count === 0
  })
}

function record({ figures }: Side, name: string, value: number): void {
  figures.set(name, [...(figures.get(name) ?? []), value])
}

function report({ figures }: Side): void {
  const base = median(figures.get('bare Fastify route')!)
  for (const [name, values] of figures) {
    process.stdout.write(
      `api: ${name.padEnd(26)} ${median(values).toFixed(0).padStart(7)}/s  ${(median(values) / base).toFixed(2)} of the bare route\n`,
    )
  }
  const cost = median(figures.get('list of 20 among 1,000')!) / median(figures.get('list of 20 among 100,000')!)
  process.stdout.write(
    `api: a list among 100,000 instances takes ${cost.toFixed(2)} times as long as among 1,000 (at most 1.2)\n`,
  )
}

function url({ plane }: Side): string {
  return `http://127.0.0.1:${plane.port}`
}

function key({ plane }: Side): string {
  return plane.credentials.test_key
}

function get(side: Side, path: string): Promise<number> {
  return wrk(`${url(side)}${path}`, SECONDS, key(side))
}

/** Brings the number of simulated instances to `count` with copies of one row. */
async function fill({ sql, id }: Side, count: number): Promise<void> {
  const columns = await sql<{ name: string }[]>`
    select column_name as name from information_schema.columns
    where table_name = 'instances' and column_name not in ('id', 'ordinal', 'name') order by 1`
  const names = columns.map((column) => column.name).join(', ')
  const [row] = await sql<{ present: number }[]>`select count(*)::int as present from instances`
  await sql.unsafe(
    `insert into instances (id, name, ${names})
     select 'inst_' || lpad(n::text, 10, '0'), 'copy-' || n, ${names} from instances, generate_series($1::int, $2::int) n
     where id = $3`,
    [row!.present + 1, count, id],
  )
  // Keys that are not due, so that no job wakes the copies.
  await sql`
    insert into work (kind, id, environment_id, due_at)
    select 'instance', id, environment_id, 'infinity' from instances on conflict do nothing`
  await sql`vacuum analyze instances, work`
}

/** Prepared selects of one row per second, sent directly to the same server. */
async function pgbench({ plane, id }: Side): Promise<number> {
  const script = join(folder, 'select.sql')
  writeFileSync(script, `select * from instances where id = '${id}';\n`)
  const host = plane.postgres_host
  const flags = ['-n', '-M', 'prepared', '-c', '8', '-j', '1', '-T', String(SECONDS), '-f', script]
  const out = await run('pgbench', ['-h', host, '-U', 'cloudnexus', ...flags, 'cloudnexus'])
  return Number(/tps = ([\d.]+)/.exec(out)![1])
}
