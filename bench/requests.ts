/**
 * The cost of the request log and the counters: the same API in two processes on the same database, one with them and one
 * without, saturated alternately.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { connect } from '../server/src/db/database.ts'
import { migrate } from '../server/src/db/migrate.ts'
import { startTestServer } from '../server/src/db/test-server.ts'
import { median, summary } from './lib/statistics.ts'
import { wrk } from './lib/wrk.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 15)
const SECONDS = 2
const LEAST = 0.9
const MODES = ['recorded', 'plain'] as const
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

type Api = { child: ChildProcess; port: number; key: string; instance: string }

const server = await startTestServer()
const apis: Partial<Record<(typeof MODES)[number], Api>> = {}
try {
  const sql = connect({ url: server.url, max: 1, name: 'bench' })
  await migrate(sql)
  await sql.end()
  for (const mode of MODES) apis[mode] = await start(mode)
  await compare('GET one', (api) => rate(api, `/v2/instances/${api.instance}`))
  await compare('GET regions', (api) => rate(api, '/v2/regions'))
  await compare('POST', (api) => rate(api, '/v2/instances', JSON.stringify(BODY)))
  process.stdout.write(`requests: ${JSON.stringify((await state(apis.recorded!)).counts)}\n`)
} finally {
  for (const api of Object.values(apis)) api.child.disconnect()
  await server.stop()
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

/** Measures both alternately; the first round is not counted. The two of a round ran under the same load and are compared. */
async function compare(name: string, measure: (api: Api) => Promise<number>): Promise<void> {
  const rates: Record<string, number[]> = { recorded: [], plain: [] }
  const costs: Record<string, number[]> = { recorded: [], plain: [] }
  for (let round = 0; round <= ROUNDS; round++) {
    for (const mode of round % 2 === 0 ? MODES : MODES.toReversed()) {
      const before = await state(apis[mode]!)
      const perSecond = await measure(apis[mode]!)
      const after = await state(apis[mode]!)
      if (round === 0) continue
      rates[mode]!.push(perSecond)
      costs[mode]!.push((after.cpu_us - before.cpu_us) / (perSecond * SECONDS))
    }
  }
  const pairs = rates.recorded!.map((rate, i) => rate / rates.plain![i]!)
  const print = (line: string) => process.stdout.write(`requests: ${name.padEnd(12)} ${line}\n`)
  print(`with ${summary(rates.recorded!, '/s')}, without ${summary(rates.plain!, '/s')}`)
  print(`median of the pairs' ratios ${median(pairs).toFixed(3)} (at least ${LEAST})`)
  print(`CPU of the API for each: with ${summary(costs.recorded!, 'µs')}, without ${summary(costs.plain!, 'µs')}`)
}

/** CPU time of the process and its counts of recorded requests. */
async function state({ child }: Api): Promise<{ cpu_us: number; counts: object }> {
  child.send('state')
  return ((await once(child, 'message')) as [{ cpu_us: number; counts: object }])[0]
}

function rate({ port, key }: Api, path: string, body?: string): Promise<number> {
  return wrk(`http://127.0.0.1:${port}${path}`, SECONDS, key, body)
}
