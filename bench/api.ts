/**
 * The API's most frequent requests, compared with two upper limits measured in the same run: a bare Fastify route without
 * a database, and pgbench on the same PostgreSQL server. Quote the ratios: absolute figures differ from machine to
 * machine and from minute to minute.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import { ControlPlane, run } from '../e2e/control-plane.ts'
import { connect } from '../server/src/db/database.ts'
import { median } from './lib/statistics.ts'
import { wrk } from './lib/wrk.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 5)
const SECONDS = 3
/** Rate limits that are enforced and measured, but never reached. */
const PLENTY = { rate_per_second: 1_000_000, burst: 1_000_000 }
const RAISED = { reads: PLENTY, writes: PLENTY, creates: PLENTY, test_writes: PLENTY, test_creates: PLENTY }

const folder = mkdtempSync(join(tmpdir(), 'cn-bench-'))
const plane = await ControlPlane.create({ env: { CLOUDNEXUS_LOG_LEVEL: 'warn' }, config: { rate_limits: RAISED } })
const bare = Fastify()
bare.get('/', async () => ({ id: 'inst_3x9y2z1a0b', status: 'running', region: 'us-east-1', plan: 'micro-1x' }))
await bare.listen({ port: 0, host: '127.0.0.1' })
try {
  await measure()
} finally {
  await bare.close()
  await plane.teardown()
  rmSync(folder, { recursive: true, force: true })
}

async function measure(): Promise<void> {
  const key = plane.credentials.test_key
  const url = `http://127.0.0.1:${plane.port}`
  const body = JSON.stringify({
    region: 'us-east-1',
    plan: 'micro-1x',
    image: 'micro-linux',
    network: { assign_public_ip: true },
  })
  const { body: one } = await plane.call('POST', '/v2/instances', JSON.parse(body), key)
  await plane.waitFor(one.id, 'running', 60).catch(() => {})
  const sql = connect({ url: databaseUrl(), max: 2, name: 'bench' })

  const bareUrl = bare.listeningOrigin
  const figures: Record<string, number[]> = {}
  const record = (name: string, value: number) => {
    const values = figures[name] ?? []
    figures[name] = values
    values.push(value)
  }
  await fill(sql, one.id, 1_000)
  for (let i = 0; i < ROUNDS; i++) {
    record('bare Fastify route', await wrk(bareUrl, SECONDS))
    record('pgbench select', await pgbench(one.id))
    record('GET one', await wrk(`${url}/v2/instances/${one.id}`, SECONDS, key))
    record('list of 20 among 1,000', await wrk(`${url}/v2/instances`, SECONDS, key))
  }
  await fill(sql, one.id, 100_000)
  for (let i = 0; i < ROUNDS; i++) {
    record('list of 20 among 100,000', await wrk(`${url}/v2/instances`, SECONDS, key))
    record('GET one among 100,000', await wrk(`${url}/v2/instances/${one.id}`, SECONDS, key))
    record('bare Fastify route', await wrk(bareUrl, SECONDS))
  }
  for (let i = 0; i < ROUNDS; i++) record('POST', await wrk(`${url}/v2/instances`, SECONDS, key, body))
  await sql.end()

  const base = median(figures['bare Fastify route']!)
  for (const [name, values] of Object.entries(figures)) {
    const middle = median(values)
    process.stdout.write(
      `api: ${name.padEnd(26)} ${middle.toFixed(0).padStart(7)}/s  ${(middle / base).toFixed(2)} of the bare route\n`,
    )
  }
  const cost = median(figures['list of 20 among 1,000']!) / median(figures['list of 20 among 100,000']!)
  process.stdout.write(
    `api: a list among 100,000 instances takes ${cost.toFixed(2)} times as long as among 1,000 (at most 1.2)\n`,
  )
}

/** The embedded server's socket, read from its PID file. */
function databaseUrl(): string {
  const lines = readFileSync(join(plane.data_dir, 'postgres/postmaster.pid'), 'utf8').split('\n')
  return `postgres://cloudnexus@/cloudnexus?host=${encodeURIComponent(lines[4]!.trim())}`
}

/** Brings the number of simulated instances to `count` by copying one row. */
async function fill(sql: ReturnType<typeof connect>, id: string, count: number): Promise<void> {
  const columns = await sql<{ name: string }[]>`
    select column_name as name from information_schema.columns
    where table_name = 'instances' and column_name not in ('id', 'ordinal', 'name') order by 1`
  const names = columns.map((column) => column.name).join(', ')
  const [{ present }] = (await sql`select count(*)::int as present from instances`) as unknown as [{ present: number }]
  await sql.unsafe(
    `insert into instances (id, name, ${names})
     select 'inst_' || lpad(n::text, 10, '0'), 'copy-' || n, ${names} from instances, generate_series($1::int, $2::int) n
     where id = $3`,
    [present + 1, count, id],
  )
  await sql`analyze instances`
}

/** Prepared selects of one row per second, sent directly to the same server. */
async function pgbench(id: string): Promise<number> {
  const script = join(folder, 'select.sql')
  writeFileSync(script, `select * from instances where id = '${id}';\n`)
  const host = new URL(databaseUrl().replace('@/', '@x/')).searchParams.get('host')!
  const flags = ['-n', '-M', 'prepared', '-c', '8', '-j', '1', '-T', String(SECONDS), '-f', script]
  const out = await run('pgbench', ['-h', host, '-U', 'cloudnexus', ...flags, 'cloudnexus'])
  return Number(/tps = ([\d.]+)/.exec(out)![1])
}
