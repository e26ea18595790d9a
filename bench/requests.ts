/**
 * What the request log and the counters cost: the same API in two processes on the same database, one with them and one
 * without, asked in turn and saturated.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../e2e/control-plane.ts'
import { connect } from '../server/src/db/database.ts'
import { migrate } from '../server/src/db/migrate.ts'
import { startTestServer } from '../server/src/db/test-server.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 15)
const SECONDS = 2
const CONNECTIONS = 32
const LEAST = 0.9
const MODES = ['recorded', 'plain'] as const
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

type Api = { child: ChildProcess; port: number; key: string; instance: string }

await run('wrk', ['--version']).catch((error: NodeJS.ErrnoException) => {
  if (error.code !== 'ENOENT') return
  process.stderr.write('There is no wrk on this host: apt-get install -y wrk\n')
  process.exit(1)
})
const folder = mkdtempSync(join(tmpdir(), 'cn-bench-'))
const server = await startTestServer()
const apis: Partial<Record<(typeof MODES)[number], Api>> = {}
try {
  const sql = connect({ url: server.url, max: 1, name: 'bench' })
  await migrate(sql)
  await sql.end()
  for (const mode of MODES) apis[mode] = await start(mode)
  await compare('GET one', (api) => wrk(api, `/v2/instances/${api.instance}`))
  await compare('GET regions', (api) => wrk(api, '/v2/regions'))
  await compare('POST', (api) => wrk(api, '/v2/instances', JSON.stringify(BODY)))
  process.stdout.write(`requests: ${JSON.stringify((await state(apis.recorded!)).counts)}\n`)
} finally {
  for (const api of Object.values(apis)) api.child.disconnect()
  await server.stop()
  rmSync(folder, { recursive: true, force: true })
}

async function start(mode: string): Promise<Api> {
  const child = fork(join(import.meta.dirname, 'lib/api-process.ts'), [server.url, mode], { stdio: 'inherit' })
  const [{ port, key }] = (await once(child, 'message')) as [{ port: number; key: string }]
  const response = await fetch(`http://127.0.0.1:${port}/v2/instances`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(BODY),
  })
  const { id } = (await response.json()) as { id: string }
  return { child, port, key, instance: id }
}

/** Asks both in turn, the first round not counted. A round is a pair in the same mood of the machine, so pairs are compared. */
async function compare(name: string, measure: (api: Api) => Promise<number>): Promise<void> {
  const rates: Record<string, number[]> = { recorded: [], plain: [] }
  const costs: Record<string, number[]> = { recorded: [], plain: [] }
  for (let round = 0; round <= ROUNDS; round++) {
    for (const mode of round % 2 === 0 ? MODES : MODES.toReversed()) {
      const before = await state(apis[mode]!)
      const rate = await measure(apis[mode]!)
      const after = await state(apis[mode]!)
      if (round === 0) continue
      rates[mode]!.push(rate)
      costs[mode]!.push((after.cpu_us - before.cpu_us) / (rate * SECONDS))
    }
  }
  const pairs = rates.recorded!.map((rate, i) => rate / rates.plain![i]!)
  const say = (line: string) => process.stdout.write(`requests: ${name.padEnd(12)} ${line}\n`)
  say(`with ${summary(rates.recorded!, '/s')}, without ${summary(rates.plain!, '/s')}`)
  say(`median of the pairs' ratios ${median(pairs).toFixed(3)} (at least ${LEAST})`)
  say(`CPU of the API for each: with ${summary(costs.recorded!, 'µs')}, without ${summary(costs.plain!, 'µs')}`)
}

/** What the process tells of itself: time computed, and what was recorded. */
async function state({ child }: Api): Promise<{ cpu_us: number; counts: object }> {
  child.send('state')
  return ((await once(child, 'message')) as [{ cpu_us: number; counts: object }])[0]
}

/** Requests per second of one address, as wrk counts them. */
async function wrk({ port, key }: Api, path: string, body?: string): Promise<number> {
  const script = join(folder, 'wrk.lua')
  const lines = [`wrk.headers["Authorization"] = "Bearer ${key}"`, 'wrk.headers["Content-Type"] = "application/json"']
  if (body) lines.push('wrk.method = "POST"', `wrk.body = ${JSON.stringify(body)}`)
  writeFileSync(script, lines.join('\n'))
  const url = `http://127.0.0.1:${port}${path}`
  const out = await run('wrk', ['-t1', `-c${CONNECTIONS}`, `-d${SECONDS}s`, '-s', script, url])
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(out)
  if (bad) throw new Error(`${path}: ${bad[0]}`)
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(out)![1])
}
