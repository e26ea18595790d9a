/**
 * A key that is revoked while a request runs, for every operation of the OpenAPI document. Locks hold each request in the
 * middle of its work. It gets 401 before the locks are released, and commits nothing afterwards.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { Query } from '../db/database.ts'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { caller, createTestKey, testConfig } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { SCOPES } from '../keys/scopes.ts'
import { until } from '../testing/until.ts'
import { operationsOf, urlOf } from './document.ts'
import { makeResource } from './resources.ts'

const data_dir = mkdtempSync(join(tmpdir(), 'cn-revocation-'))
const world = await createWorld({ deps: { config: { ...testConfig, data_dir } } })
const { app, deps, owner } = world
after(async () => {
  await world.stop()
  rmSync(data_dir, { recursive: true })
})
await app.ready()
const document = app.swagger() as unknown as OpenapiDocument
const operations = operationsOf(document)
const own = caller(app, world.test.key)
const make = (type: string, within: string[] = []) => makeResource(type, own, operations, document, within)
const newKey = () => createTestKey(deps, world.test.principal, SCOPES)
const revoke = (id: string) => owner`update api_keys set revoked_at = now() where id = ${id}`

/** Tables that a request needs before its handler and for a refusal, and those that record requests themselves. */
const FREE = [
  'api_keys',
  'environments',
  'projects',
  'rate_limits',
  'environment_heads',
  'audit_log',
  'requests',
  'work',
]
const tables = (
  await owner<{ name: string }[]>`
    select c.relname as name from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
      and not c.relispartition order by 1`
)
  .map(({ name }) => name)
  .filter((name) => !FREE.includes(name))

/** The content of all tables that a write could change. */
async function contents(query: Query): Promise<Record<string, string>> {
  const all: Record<string, string> = {}
  for (const name of tables) {
    const [row] = await query<{ text: string | null }[]>`
      select md5(string_agg(t::text, '|' order by t::text)) as text from ${query(name)} t`
    all[name] = row!.text ?? ''
  }
  return all
}

/** Sessions that wait for a row of a key. */
const lockWaits = async () =>
  (
    await owner`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
      and query like 'update api_keys set revoked_at%'`
  ).count

/** Sessions that wait for this one. */
const waitFor = async (pid: number) =>
  (await owner`select from pg_stat_activity where datname = current_database() and ${pid} = any(pg_blocking_pids(pid))`)
    .count

describe('a key that is revoked while its request runs', { timeout: 120_000 }, () => {
  for (const operation of operations.filter(({ scope }) => scope !== 'none')) {
    test(`${operation.method} ${operation.path}`, async () => {
      await world.engine.stop(5_000)
      const values: Record<string, string> = {}
      for (const { name, type, schema } of operation.pathParameters)
        values[name] = type ? await make(type, Object.values(values)) : String(schema.examples?.[0])
      const { key, principal } = await newKey()
      const url = urlOf(operation, values)
      const raw = { 'content-type': 'application/octet-stream' }
      let status: number | null = null
      let done: Promise<unknown> = Promise.resolve()
      let revoking: PromiseLike<unknown> = Promise.resolve()
      let before = {}
      await owner
        .begin(async (tx) => {
          await tx.unsafe(`lock table ${tables.map((name) => `"${name}"`).join()} in access exclusive mode`)
          before = await contents(tx)
          const { pid } = (await tx<{ pid: number }[]>`select pg_backend_pid() as pid`)[0]!
          done = caller(app, key)(
            operation.method,
            url,
            operation.isRaw ? Buffer.from('bytes') : operation.body?.example,
            operation.isRaw ? raw : {},
          ).then((response) => {
            status = response.status
          })
          await until('the request waits or has ended', async () => status !== null || (await waitFor(pid)) > 0)
          const isHeld = status === null
          let isRevoked = false
          revoking = revoke(principal.key_id).then(() => (isRevoked = true))
          await until('the key is revoked or locked', async () => isRevoked || (await lockWaits()) > 0)
          // A request that locks its own key is committed before the revocation.
          if (!isRevoked) return
          const revokedAt = deps.clock.monotonic()
          await until('the request has ended', () => status !== null)
          const late = deps.clock.monotonic() - revokedAt >= 1_000
          assert.ok(status === 401 || !isHeld || !late, `${status}`)
        })
        .finally(() => Promise.all([done, revoking]))
      await until('nothing of the request runs', async () => (await busy()) === 0)
      if (status === 401) assert.deepEqual(await contents(owner), before)
    })
  }
})

/** Sessions other than this one that are in a transaction. */
async function busy(): Promise<number> {
  const { count } = await owner`
    select from pg_stat_activity where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()`
  return count
}

/** How a key ends or loses what a stream needs. */
const CHANGES: Record<string, (id: string) => PromiseLike<unknown>> = {
  'is revoked': revoke,
  expires: (id) => owner`update api_keys set expires_at = now() + interval '100 milliseconds' where id = ${id}`,
  'loses a scope': (id) => owner`update api_keys set scopes = '{keys:read}' where id = ${id}`,
  'is restricted to other IP addresses': (id) =>
    owner`update api_keys set allowed_addresses = '{192.0.2.1}' where id = ${id}`,
}

describe('streams, long polls and slow bodies end when their key', { timeout: 120_000 }, () => {
  let base = ''
  let port = 0
  test('(the server listens)', async () => {
    await app.listen({ port: 0, host: '127.0.0.1' })
    port = (app.server.address() as AddressInfo).port
    base = `http://127.0.0.1:${port}`
  })

  for (const [what, change] of Object.entries(CHANGES)) {
    test(what, async () => {
      const id = await make('inst')
      const { key, principal } = await newKey()
      const headers = { authorization: `Bearer ${key}` }
      const open = (path: string) => fetch(base + path, { headers })
      const streams = await Promise.all(['/v2/events/stream', `/v2/instances/${id}/console_log?follow=true`].map(open))
      assert.deepEqual(
        streams.map(({ status }) => status),
        [200, 200],
      )
      const poll = open(`/v2/instances/${id}?wait_for=stopped&timeout=60`)
      const upload = halfOf(
        port,
        `POST /v2/subnets`,
        key,
        JSON.stringify({ region: 'us-east-1', name: principal.key_id, cidr: '10.9.0.0/24' }),
      )
      await upload.sent
      await change(principal.key_id)
      await Promise.all(streams.map((stream) => stream.text().catch(() => '')))
      const expected = what === 'is revoked' || what === 'expires' ? 401 : 403
      assert.equal((await poll).status, expected)
      assert.equal(await upload.status, expected)
      upload.finish()
      const made = await owner`select from subnets where name = ${principal.key_id}`
      assert.equal(made.count, 0)
    })
  }
})

/** Sends the first half of a request, and reads the status of its response. */
function halfOf(port: number, line: string, key: string, body: string) {
  const socket = connect({ port, host: '127.0.0.1' })
  socket.on('error', () => {})
  const head = [`${line} HTTP/1.1`, 'Host: localhost', `Authorization: Bearer ${key}`, 'Content-Type: application/json']
  const half = body.length >> 1
  const text = `${head.join('\r\n')}\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, half)}`
  const status = once(socket, 'data').then(([data]) => Number(/^HTTP\/1\.1 (\d{3})/.exec(String(data))?.[1]))
  const sent = new Promise<void>((resolve) => socket.write(text, () => resolve()))
  return { sent, status, finish: () => socket.end(body.slice(half)) }
}
