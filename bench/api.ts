/**
 * The API's most frequent requests, compared with two upper limits measured in the same run: a bare Fastify route without
 * a database, and pgbench on the same PostgreSQL server. Quote the ratios: absolute figures differ from machine to
 * machine and from minute to minute.
 *
 * `npm run bench api -- --against FOLDER` also runs the control plane of another checkout, which has its dependencies, and
 * compares both: each round measures one after the other, and every second round in the reverse order.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import { ControlPlane, run } from '../e2e/control-plane.ts'
import { connect, type Sql } from '../server/src/db/database.ts'
import { until } from '../server/src/testing/until.ts'
import { median } from './lib/statistics.ts'
import { wrk } from './lib/wrk.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 5)
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

/** A control plane, its database, its first instance, and what was measured: requests per second of each round. */
type Side = { plane: ControlPlane; sql: Sql; id: string; figures: Map<string, number[]> }

const { against } = parseArgs({ args: process.argv.slice(3), options: { against: { type: 'string' } } }).values
const folder = mkdtempSync(join(tmpdir(), 'cn-bench-'))
const sides: Side[] = []
const bare = Fastify()
bare.get('/', async () => ({ id: 'inst_3x9y2z1a0b', status: 'running', region: 'us-east-1', plan: 'micro-1x' }))
await bare.listen({ port: 0, host: '127.0.0.1' })
try {
  sides.push(await startSide())
  if (against !== undefined) sides.push(await startSide(resolve(against)))
  await measure()
  report()
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

async function measure(): Promise<void> {
  await eachSide(0, (side) => fill(side, 1_000))
  for (let i = 0; i < ROUNDS; i++) {
    await eachSide(i, async (side) => {
      record(side, 'bare Fastify route', await wrk(bare.listeningOrigin, SECONDS))
      record(side, 'pgbench select', await pgbench(side))
      record(side, 'GET one', await get(side, `/v2/instances/${side.id}`))
      record(side, 'list of 20 among 1,000', await get(side, '/v2/instances'))
    })
  }
  await eachSide(0, (side) => fill(side, 100_000))
  for (let i = 0; i < ROUNDS; i++) {
    await eachSide(i, async (side) => {
      record(side, 'list of 20 among 100,000', await get(side, '/v2/instances'))
      record(side, 'GET one among 100,000', await get(side, `/v2/instances/${side.id}`))
      record(side, 'bare Fastify route', await wrk(bare.listeningOrigin, SECONDS))
    })
  }
  for (let i = 0; i < ROUNDS; i++) {
    await eachSide(i, async (side) => {
      record(side, 'POST', await wrk(`${url(side)}/v2/instances`, SECONDS, key(side), JSON.stringify(INSTANCE)))
      await until('the engine is idle', async () => {
        const rows = await side.sql`select from instances where status = 'provisioning' limit 1`
        return rows.count === 0
      })
    })
  }
}

/** Runs the work on each side, in the reverse order in every second round. */
async function eachSide(round: number, work: (side: Side) => Promise<void>): Promise<void> {
  for (const side of round % 2 === 0 ? sides : sides.toReversed()) await work(side)
}

function record({ figures }: Side, name: string, value: number): void {
  figures.set(name, [...(figures.get(name) ?? []), value])
}

function report(): void {
  const [{ figures }, other] = sides as [Side, Side?]
  const base = median(figures.get('bare Fastify route')!)
  for (const [name, values] of figures) {
    const before = other?.figures.get(name)
    const ratios = before?.map((value, i) => values[i]! / value)
    process.stdout.write(
      `api: ${name.padEnd(26)} ${median(values).toFixed(0).padStart(7)}/s  ${(median(values) / base).toFixed(2)} of the bare route` +
        (ratios ? `  ${median(ratios).toFixed(3)} of ${median(before!).toFixed(0)}/s before\n` : '\n'),
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
