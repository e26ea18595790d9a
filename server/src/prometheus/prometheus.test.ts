import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { after, describe, test } from 'node:test'
import { createEngine } from '../engine/loop.ts'
import { wake } from '../engine/work.ts'
import { caller, createTestApp, createTestKey } from '../http/testing.ts'
import { systemClock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import { silentLog } from '../lib/log.ts'
import { until } from '../testing/until.ts'
import { collectMetrics, engineObserver } from './collectors.ts'
import { listenForPrometheus } from './listener.ts'

const { app, deps, call, live } = await createTestApp()
collectMetrics(deps)
after(() => app.close())

/** The value of one series. */
async function value(series: string): Promise<number | undefined> {
  const { status, body } = await call('GET', '/metrics')
  assert.equal(status, 200)
  const line = (body as string).split('\n').find((each) => each.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

describe('/metrics', { timeout: 240_000 }, () => {
  test('requires the scope admin', async () => {
    const narrow = await createTestKey(deps, live.principal, ['metrics:read', 'metrics:write'])
    assert.equal((await caller(app, narrow.key)('GET', '/metrics')).status, 403)
    assert.equal((await call('GET', '/metrics', undefined, { authorization: '' })).status, 401)
    const { status, headers } = await call('GET', '/metrics')
    assert.deepEqual([status, headers['content-type']], [200, 'text/plain; version=0.0.4; charset=utf-8'])
  })

  test('counts requests by route, method and status class, without text of clients in labels', async () => {
    const id = 'inst_secret0000'
    for (let i = 0; i < 3; i++) await call('GET', `/v2/instances/${id}`)
    await call('GET', `/v2/${id}`)
    await call('GET', '/v2/regions')
    const labels = 'method="GET",route="/v2/instances/:id"'
    assert.equal(await value(`cloudnexus_http_requests_total{${labels},status="4xx"}`), 3)
    assert.equal(await value('cloudnexus_http_requests_total{method="GET",route="none",status="4xx"}'), 1)
    assert.equal(await value('cloudnexus_http_requests_total{method="GET",route="/v2/regions",status="2xx"}'), 1)
    assert.equal(await value(`cloudnexus_http_request_seconds_count{${labels}}`), 3)
    const { body } = await call('GET', '/metrics')
    const { key_id, environment_id, project_id } = live.principal
    for (const text of [id, key_id, environment_id, project_id]) assert.ok(!body.includes(text), text)
  })

  test('reports process, connection pool and request log', async () => {
    await deps.requests.flush()
    assert.ok((await value('process_resident_memory_bytes'))! > 1e7)
    assert.ok((await value('process_cpu_seconds_total'))! > 0)
    assert.ok((await value('nodejs_eventloop_delay_seconds{quantile="0.99"}'))! >= 0)
    assert.ok((await value('cloudnexus_database_connections{state="idle"}'))! > 0)
    assert.equal(await value('cloudnexus_database_waiting'), 0)
    assert.ok((await value('cloudnexus_request_log_written_total'))! > 0)
    assert.equal(await value('cloudnexus_request_log_dropped_total{kind="kept"}'), 0)
  })

  test('reports claims, passes, failures and the queue of the engine', async () => {
    const { sql, metrics } = deps
    const { environment_id } = live.principal
    let passes = 0
    const engine = createEngine({
      sql,
      clock: systemClock,
      log: silentLog,
      worker: 'test',
      poll_ms: 20,
      observer: engineObserver(metrics),
      reconcilers: {
        counted: async () => {
          if (passes++ === 0) throw new Error('a test')
          return { after_seconds: 3600 }
        },
      },
    })
    after(() => engine.stop(1_000))
    await engine.start()
    await wake(sql, 'counted', 'a', environment_id)
    await wake(sql, 'other', 'b', environment_id)
    await until('the second pass is counted', async () => {
      return passes >= 2 && (await value('cloudnexus_engine_queue{kind="counted",state="later"}')) === 1
    })
    assert.equal(await value('cloudnexus_engine_queue{kind="other",state="due"}'), 1)
    assert.equal(await value('cloudnexus_engine_claims_total{kind="counted"}'), 2)
    assert.equal(await value('cloudnexus_engine_failures_total{kind="counted"}'), 1)
    assert.equal(await value('cloudnexus_engine_look_seconds_count{kind="counted"}'), 2)
  })

  test('a separate listener serves only /metrics; an address in use is a one-line error', async () => {
    const server = await listenForPrometheus(deps.metrics, '127.0.0.1:0')
    const { port } = server.address() as AddressInfo
    const base = `http://127.0.0.1:${port}`
    const answer = await fetch(`${base}/metrics`)
    assert.match(await answer.text(), /^cloudnexus_http_requests_total/m)
    assert.equal((await fetch(`${base}/v2/instances`)).status, 404)
    assert.equal((await fetch(`${base}/metrics`, { method: 'POST' })).status, 404)
    await assert.rejects(listenForPrometheus(deps.metrics, `127.0.0.1:${port}`), StartupError)
    server.close().closeAllConnections()
    await once(server, 'close')
  })
})
