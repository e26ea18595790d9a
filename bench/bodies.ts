/**
 * The bodies that cost most to reject: for every operation with a JSON body, 1 MiB of each kind of
 * server/src/http/testing-bodies.ts, while another client reads `/healthz` of the same process. Prints the slowest answers
 * and their ratio to the limit of 200 ms, and the median of an ordinary valid request for comparison.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from '../server/src/db/database.ts'
import { migrate } from '../server/src/db/migrate.ts'
import { startTestServer } from '../server/src/db/test-server.ts'
import { worstBodies } from '../server/src/http/testing-bodies.ts'
import { median } from './lib/statistics.ts'

const LIMIT_MS = 200
const ROUNDS = Number(process.env.ROUNDS ?? 3)
const BYTES = 2 ** 20
const SHOWN = 5

const document = JSON.parse(readFileSync(join(import.meta.dirname, '../openapi.json'), 'utf8'))
const components = document.components.schemas

const server = await startTestServer()
const sql = connect({ url: server.url, max: 1, name: 'bench' })
await migrate(sql)
await sql.end()
const child: ChildProcess = fork(join(import.meta.dirname, 'lib/api-process.ts'), [server.url, 'recorded'])
child.once('exit', (code) => {
  process.stderr.write(`bodies: the API ended with ${code}\n`)
  process.exit(1)
})
const [{ port, key }] = (await once(child, 'message')) as [{ port: number; key: string }]
const base = `http://127.0.0.1:${port}`
const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }

let pauses: number[] = []
const polling = new AbortController()
const poller = pollHealth()

type Operation = { operationId: string; requestBody?: { content: Record<string, { schema: object }> } }
type Figure = { name: string; ms: number; status: number; pause_ms: number }
const figures: Figure[] = []
const ordinary: number[] = []
for (const [path, methods] of Object.entries(document.paths as Record<string, Record<string, Operation>>)) {
  for (const [method, operation] of Object.entries(methods)) {
    const schema = operation.requestBody?.content['application/json']?.schema
    if (!schema) continue
    const url = base + path.replaceAll(/\{\w+\}/g, () => idFor(path))
    for (const { name, body } of worstBodies(schema, components, BYTES - 1_000)) {
      const text = JSON.stringify(body)
      figures.push(await measure(`${operation.operationId} ${name}`, method.toUpperCase(), url, text))
      ordinary.push((await timed('GET', `${base}/v2/instances`)).ms)
    }
  }
}
polling.abort()
await poller
figures.sort((a, b) => b.ms - a.ms)
process.stdout.write(`bodies: ${figures.length} bodies of 1 MiB, ${ROUNDS} rounds, limit ${LIMIT_MS} ms\n`)
for (const { name, ms, status, pause_ms } of figures.slice(0, SHOWN)) {
  const ratio = (ms / LIMIT_MS).toFixed(2)
  process.stdout.write(
    `bodies: ${ms.toFixed(1).padStart(7)} ms  ${ratio} of the limit  /healthz ${pause_ms.toFixed(1)} ms  ${status}  ${name}\n`,
  )
}
process.stdout.write(
  `bodies: ${median(figures.map((each) => each.ms))
    .toFixed(1)
    .padStart(7)} ms  median of all\n`,
)
process.stdout.write(
  `bodies: ${median(ordinary).toFixed(1).padStart(7)} ms  median of GET /v2/instances between them\n`,
)
const byStatus = Object.groupBy(figures, (each) => String(each.status))
for (const [status, list] of Object.entries(byStatus)) process.stdout.write(`bodies: ${status}: ${list!.length}\n`)
child.removeAllListeners('exit').disconnect()
await server.stop()
if (figures[0]!.ms > LIMIT_MS) process.exitCode = 1

/** The median of the rounds, and the longest time in which `/healthz` did not answer. */
async function measure(name: string, method: string, url: string, text: string): Promise<Figure> {
  pauses = []
  const rounds = []
  for (let i = 0; i < ROUNDS; i++) rounds.push(await timed(method, url, text))
  const ms = median(rounds.map((each) => each.ms))
  return { name, ms, status: rounds[0]!.status, pause_ms: Math.max(0, ...pauses) }
}

async function timed(method: string, url: string, body?: string) {
  const begin = performance.now()
  const response = await fetch(url, { method, headers, ...(body !== undefined && { body }) })
  await response.arrayBuffer()
  return { ms: performance.now() - begin, status: response.status }
}

async function pollHealth(): Promise<void> {
  while (!polling.signal.aborted) {
    const begin = performance.now()
    await (await fetch(`${base}/healthz`)).arrayBuffer()
    pauses.push(performance.now() - begin)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** A missing resource: the body is validated before it is searched. */
function idFor(path: string): string {
  const kinds: Record<string, string> = {
    instances: 'inst',
    images: 'img',
    ssh_keys: 'ssh',
    webhooks: 'whk',
    api_keys: 'key',
    projects: 'proj',
    subnets: 'sub',
  }
  const kind = kinds[path.split('/')[2]!]
  if (kind === undefined) throw new Error(`no kind of ID is known for ${path}`)
  return `${kind}_0000000000`
}
