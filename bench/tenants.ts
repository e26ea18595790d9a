/**
 * What one tenant can take from another: 300 streams of a console log, 40 imports from a server that sends almost nothing
 * and 100 clients that search the request log, all of one project, while another project reads an instance. Compares the
 * rate of the other project with its rate before and after, in one run, with the default rate limits.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { ControlPlane } from '../e2e/control-plane.ts'
import { until } from '../server/src/testing/until.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 3)
const LEAST = 0.5
/** Below the burst of a key, so that no request is limited. */
const REQUESTS = 900
const CLIENTS = 16
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

const source = createServer((_, response) => {
  response.writeHead(200, { 'content-length': '1000000000' })
  const timer = setInterval(() => response.write('x'), 1_000)
  response.on('close', () => clearInterval(timer))
}).listen(0, '127.0.0.1')

const plane = await ControlPlane.create({ open: true, env: { CLOUDNEXUS_ALLOW_TENANT_LOOPBACK: 'on' } })
try {
  const quiet = (await plane.call('POST', '/v2/projects', { name: 'quiet' })).body
  const noisy = (await plane.call('POST', '/v2/projects', { name: 'noisy' })).body
  const own = (await plane.call('POST', '/v2/instances', BODY, quiet.test_key)).body.id
  const before = await rates(quiet.test_key, own)
  const attack = await begin(noisy.live_key)
  const during = await rates(quiet.test_key, own)
  process.stdout.write(`tenants: ${JSON.stringify(attack.counts())}\n`)
  await attack.end()
  const after = await rates(quiet.test_key, own)
  const ratio = median(during) / median([...before, ...after])
  process.stdout.write(`tenants: alone             ${summary([...before, ...after], '/s')}\n`)
  process.stdout.write(`tenants: beside the other  ${summary(during, '/s')}\n`)
  process.stdout.write(`tenants: ratio of medians  ${ratio.toFixed(2)} (at least ${LEAST})\n`)
  if (ratio < LEAST) process.exitCode = 1
} finally {
  await plane.teardown()
  source.closeAllConnections()
  source.close()
}

/** Requests per second of a burst, each with a new key. */
async function rates(key: string, id: string): Promise<number[]> {
  const figures: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const fresh = (await plane.call('POST', '/v2/api_keys', { name: 'bench', scopes: ['instances:read'] }, key)).body
      .key
    const begin = performance.now()
    let left = REQUESTS
    await Promise.all(
      Array.from({ length: CLIENTS }, async () => {
        while (left-- > 0) {
          const { status } = await get(`/v2/instances/${id}`, fresh)
          if (status !== 200) throw new Error(`${status}`)
        }
      }),
    )
    figures.push(REQUESTS / ((performance.now() - begin) / 1_000))
  }
  return figures
}

async function get(path: string, key: string, signal?: AbortSignal) {
  const headers = { authorization: `Bearer ${key}` }
  const response = await fetch(`http://127.0.0.1:${plane.port}${path}`, { headers, ...(signal && { signal }) })
  await response.arrayBuffer()
  return response
}

async function begin(key: string) {
  const over = new AbortController()
  const counts: Record<string, number> = {}
  const count = (what: string) => {
    counts[what] = (counts[what] ?? 0) + 1
  }
  const { id } = (await plane.call('POST', '/v2/instances', BODY, key)).body
  await until(
    'the instance runs',
    async () => (await plane.call('GET', `/v2/instances/${id}`, undefined, key)).body.status === 'running',
  )
  const headers = { authorization: `Bearer ${key}` }
  const url = `http://127.0.0.1:${plane.port}/v2/instances/${id}/console_log?follow=true`
  const streams = Array.from({ length: 300 }, async () => {
    const response = await fetch(url, { headers, signal: over.signal })
    count(`streams ${response.status}`)
    await response.arrayBuffer()
  })
  const { port } = source.address() as AddressInfo
  for (let i = 0; i < 40; i++) {
    const image = { name: `slow-${i}`, url: `http://localhost:${port}/${i}`, sha256: 'a'.repeat(64) }
    count(`images ${(await plane.call('POST', '/v2/images', image, key)).status}`)
  }
  // A filter without an index that matches nothing: the search reads the whole log.
  const searches = Array.from({ length: 100 }, async () => {
    while (!over.signal.aborted) {
      const { status } = await get('/v2/requests?limit=100&code=none', key, over.signal)
      count(`searches ${status}`)
      if (status === 429) await sleep(1_000)
    }
  })
  const all = [...streams, ...searches].map((each) => each.catch(() => {}))
  await until('two imports run', async () => {
    const { data } = (await plane.call('GET', '/v2/images?limit=100', undefined, key)).body
    return (
      data.filter((each: { progress: { phase: string } | null }) => each.progress?.phase === 'downloading').length === 2
    )
  })
  return {
    counts: () => counts,
    end: async () => {
      over.abort()
      await Promise.all(all)
    },
  }
}
