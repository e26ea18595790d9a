/**
 * A restart under load drops no request: the control plane responds to every request that it has started to read, ends long
 * polls early and exits by itself. Long polls are cheap. Machines are simulated. The last test needs a database that does
 * not respond: SIGSTOP pauses PostgreSQL.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { Agent, type IncomingMessage, request } from 'node:http'
import type { Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../server/src/db/database.ts'
import { identify } from '../server/src/lib/processes.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'

const RESTARTS = 3
const INTERVAL_MS = 20
const LONG_POLLS = 20
const STOP_MS = 10_000
/** Minimum number of responses to the load before each restart and after the last one. */
const MIN_RESPONSES = 20

type Outcome = { id: string; name: string | null; status: number | null; body: any; error: string | null }

let plane: ControlPlane
before(async () => {
  // The test exceeds the default rate limit.
  plane = await ControlPlane.create({ env: { CLOUDNEXUS_RATE_LIMITS: 'off' } })
})
after(() => plane?.teardown())

const agent = new Agent({ keepAlive: true })
after(() => agent.destroy())
let count = 0
/** Requests without a response; their connections once this process has written them to the kernel. */
const pending = new Map<string, Socket | null>()

/** Sends one request; `error` is set if there was no complete response. */
function send(method: string, path: string, key: string, body?: { name: string }): Promise<Outcome> {
  const id = `drain-${++count}`
  const outcome: Outcome = { id, name: body?.name ?? null, status: null, body: null, error: null }
  return new Promise((resolve) => {
    const end = (result: Partial<Outcome>) => {
      pending.delete(id)
      resolve({ ...outcome, ...result })
    }
    const failed = (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message })
    pending.set(id, null)
    const headers = { authorization: `Bearer ${key}`, 'x-request-id': id, 'content-type': 'application/json' }
    const sent = request({ port: plane.port, host: '127.0.0.1', method, path, headers, agent }, (response) => {
      read(response).then((text) => {
        const isJson = response.headers['content-type']?.includes('json')
        end({ status: response.statusCode!, body: isJson ? JSON.parse(text) : text })
      }, failed)
    })
    sent.on('finish', () => pending.has(id) && pending.set(id, sent.socket))
    sent.on('error', failed)
    sent.end(body && JSON.stringify(body))
  })
}

async function read(response: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of response) text += chunk
  return text
}

test(`${RESTARTS} restarts under 50 requests a second`, { timeout: 300_000 }, async (context) => {
  const key = plane.credentials.test_key
  const create = (name: string) =>
    send('POST', '/v2/instances', key, { name, region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' } as never)
  const { body: first } = await create('first')
  const load: Promise<void>[] = []
  const outcomes: Outcome[] = []
  let isOver = false
  const generator = (async () => {
    for (let i = 0; !isOver; i++) {
      const sent = i % 2 === 0 ? create(`load-${i}`) : send('GET', `/v2/instances/${first.id}`, key)
      load.push(sent.then((outcome) => void outcomes.push(outcome)))
      await sleep(INTERVAL_MS)
    }
  })()
  const answered = () => outcomes.filter(({ error }) => error === null)
  const loaded = () => {
    const enough = answered().length + MIN_RESPONSES
    return until('the responses to the load', () => answered().length >= enough)
  }

  const stops: number[] = []
  for (let i = 0; i < RESTARTS; i++) {
    const polls = Array.from({ length: LONG_POLLS }, () =>
      send('GET', `/v2/instances/${first.id}?wait_for=terminated&timeout=60`, key),
    )
    const followed = send('GET', `/v2/instances/${first.id}/console_log?follow=true`, key)
    await until('the control plane has read all requests', allTaken)
    await loaded()
    const begin = performance.now()
    assert.equal((await plane.end('SIGTERM')).code, 0)
    stops.push(performance.now() - begin)
    for (const poll of await Promise.all(polls)) {
      assert.deepEqual([poll.error, poll.status, poll.body?.id], [null, 200, first.id])
    }
    assert.deepEqual([(await followed).error, (await followed).status], [null, 200])
    await plane.start()
  }
  await loaded()
  isOver = true
  await generator
  await Promise.all(load)

  const log = readFileSync(plane.log_file, 'utf8')
  const refused = outcomes.filter(({ error }) => error === 'ECONNREFUSED')
  const broken = outcomes.filter(({ error }) => error !== null && error !== 'ECONNREFUSED')
  // The server can close a connection before it has read a request, but must respond to each request that it has read.
  const dropped = broken.filter(({ id }) => log.includes(`"${id}"`))
  assert.deepEqual(dropped, [])
  assert.deepEqual([...new Set(answered().map(({ status }) => status))].sort(), [200, 201])
  assert.ok(Math.max(...stops) < STOP_MS, `${stops} ms`)

  const named = new Set<string>()
  for (let url: string | null = '/v2/instances?limit=100'; url; ) {
    const { body } = await plane.call('GET', url, undefined, key)
    for (const { name } of body.data) named.add(name)
    url = body.pagination.next_cursor && `/v2/instances?limit=100&cursor=${body.pagination.next_cursor}`
  }
  const createdNames = outcomes.filter(({ status }) => status === 201).map(({ name }) => name!)
  assert.deepEqual([...named].sort(), ['first', ...createdNames].sort(), 'the created instances are those with a 201')
  const failures = log.split('\n').filter((line) => line.includes('"internal_error"'))
  assert.deepEqual(failures, [])
  context.diagnostic(
    `${answered().length} responses, ${refused.length} refused while stopped, ${broken.length} closed unread, 0 dropped; stopped in ${stops.map(Math.round).join(', ')} ms`,
  )
})

test('1,000 long polls hold no database connection, take less than 100 MB and end with a response', {
  timeout: 300_000,
}, async (context) => {
  const key = plane.credentials.test_key
  const body = { name: 'awaited', region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
  const { body: instance } = await send('POST', '/v2/instances', key, body)
  const sql = connect({ url: plane.database_url, max: 1, name: 'e2e' })
  const connections = async () => {
    const [row] = await sql`
      select count(*)::int as open, count(*) filter (where state <> 'idle')::int as busy from pg_stat_activity
      where backend_type = 'client backend' and pid <> pg_backend_pid()`
    return row as { open: number; busy: number }
  }
  const poll = () => send('GET', `/v2/instances/${instance.id}?wait_for=terminated&timeout=60`, key)
  // The first 100 polls warm up the process; their memory does not count.
  const early = Array.from({ length: 100 }, poll)
  await until('100 long polls wait', allTaken)
  await sleep(500)
  const before = { rss: residentBytes(), ...(await connections()) }
  const polls = Array.from({ length: 1_000 }, poll)
  await until('1,100 long polls wait', allTaken)
  // The engine polls the database now and then, so wait for a moment without a busy connection.
  let seen = await connections()
  await until('no database connection is busy', async () => {
    seen = await connections()
    return seen.busy === 0
  })
  const during = { rss: residentBytes(), ...seen }
  await sql.end()
  const megabytes = (during.rss - before.rss) / 1e6
  assert.ok(megabytes < 100, `${megabytes} MB`)
  // The number of connections depends on the pool, not on the number of long polls.
  assert.ok(during.open < 100, `${during.open} connections`)

  const begin = performance.now()
  assert.equal((await plane.end('SIGTERM')).code, 0)
  const stopMs = Math.round(performance.now() - begin)
  const responses = await Promise.all([...early, ...polls])
  const lost = responses.filter(({ error, status }) => error !== null || status !== 200)
  assert.deepEqual(
    lost.slice(0, 3),
    [],
    `${lost.length} of ${responses.length} without a response, stopped in ${stopMs} ms`,
  )
  context.diagnostic(
    `1,000 polls: ${megabytes.toFixed(1)} MB, connections ${before.open} before and ${during.open} during, none busy; ended in ${stopMs} ms`,
  )
})

test('with a database that does not respond, a stop ends in ten seconds and each request gets a response', {
  timeout: 300_000,
}, async () => {
  if (!plane.child) await plane.start()
  const key = plane.credentials.test_key
  const { body: instance } = await send('POST', '/v2/instances', key, {
    ...{ name: 'awaited', region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' },
  })
  const path = `/v2/instances/${instance.id}`
  const polls = Array.from({ length: 10 }, () => send('GET', `${path}?wait_for=terminated&timeout=60`, key))
  await until('ten long polls wait', allTaken)
  await sleep(500)

  const postgres = plane.postgres_pid
  const processes = [postgres, ...childrenOf(postgres)]
  for (const pid of processes) process.kill(pid, 'SIGSTOP')
  try {
    const blocked = [send('GET', '/v2/instances?limit=7', key), send('POST', `${path}/actions/stop`, key)]
    await until('the requests wait for the database', allTaken)
    const begin = performance.now()
    assert.equal((await plane.end('SIGTERM')).code, 0)
    const stopMs = performance.now() - begin
    assert.ok(stopMs < STOP_MS, `${stopMs} ms`)
    for (const { error, status, body } of await Promise.all(polls)) {
      assert.deepEqual([error, status, body?.id], [null, 200, instance.id])
    }
    for (const { error, status, body } of await Promise.all(blocked)) {
      assert.deepEqual([error, status, body?.code], [null, 503, 'unavailable'])
    }
  } finally {
    for (const pid of processes) process.kill(pid, 'SIGCONT')
  }
  await until('PostgreSQL has ended', () => identify(postgres) === null)
})

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
}

function residentBytes(): number {
  const status = readFileSync(`/proc/${plane.child!.pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) * 1024
}

/**
 * Whether the control plane has accepted the connection of each request without a response, and has read the request.
 * Requests in kernel buffers are lost when a server exits. A connection that was not accepted has no inode in the table, or
 * is not in it at all: a full queue of connections drops them, and the client's kernel retries after a second.
 */
function allTaken(): boolean {
  const port = plane.port.toString(16).toUpperCase().padStart(4, '0')
  const taken = new Set<number>()
  for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n')) {
    const [, local, remote, state, queues, , , , , inode] = line.trim().split(/\s+/)
    if (!local?.endsWith(`:${port}`) || state !== '01' || inode === '0' || !queues!.endsWith(':00000000')) continue
    taken.add(Number.parseInt(remote!.split(':')[1]!, 16))
  }
  return [...pending.values()].every((socket) => socket !== null && taken.has(socket.localPort!))
}
