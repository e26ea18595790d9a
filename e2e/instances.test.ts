/**
 * The first steps of a new user: a fresh copy of the repository without node_modules and with an empty npm cache, then
 * `npm start`, the documented request, and the full life cycle of a real guest, with curl and ssh only.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { freePort } from '../server/src/testing/free-port.ts'
import { until } from '../server/src/testing/until.ts'
import { run } from './control-plane.ts'
import { DOCUMENTED_BODY } from './documented-body.ts'
import { leftovers } from './leaks.ts'

const ROOT = join(import.meta.dirname, '..')
const folder = mkdtempSync(join(tmpdir(), 'cn-first-'))
const clone = join(folder, 'cloudnexus')
const data = join(folder, 'data')
const log = join(folder, 'start.log')
// As on a new machine: npm's cache is empty, and the project's node is not in the PATH.
const env = {
  npm_config_cache: join(folder, 'npm-cache'),
  PATH: process.env
    .PATH!.split(':')
    .filter((part) => !part.includes('node_modules'))
    .join(':'),
}
let port: number
let npm: ChildProcess
let key: string

async function start(): Promise<void> {
  const out = openSync(log, 'a')
  const args = ['start', '--', '--port', String(port), '--data-dir', data]
  npm = spawn('npm', args, { cwd: clone, env: { ...process.env, ...env }, stdio: ['ignore', out, out], detached: true })
  const child = npm
  const begin = statSync(log).size
  const isReady = () => readFileSync(log, 'utf8').slice(begin).includes('is ready, after')
  await until(
    'npm start is ready',
    async () => {
      if (child.exitCode !== null) throw new Error(`npm start ended:\n${readFileSync(log, 'utf8').slice(-4_000)}`)
      return (
        isReady() &&
        existsSync(join(data, 'credentials.json')) &&
        (await curl('GET', '/readyz', { allow: [200, 503, 0] })).status === 200
      )
    },
    180,
  )
}

type Curl = { status: number; body: any; headers: string }

/** Sends a request with curl. */
async function curl(
  method: string,
  path: string,
  options: { body?: string; allow?: number[]; headers?: string[] } = {},
): Promise<Curl> {
  const marker = '\n--status--'
  const args = ['-s', '-i', '-X', method, `http://127.0.0.1:${port}${path}`, '-w', `${marker}%{http_code}`]
  if (key) args.push('-H', `Authorization: Bearer ${key}`)
  for (const header of options.headers ?? ['Content-Type: application/json']) args.push('-H', header)
  if (options.body) args.push('-d', options.body)
  const out = await run('curl', args).catch((error: Error) => {
    if (options.allow?.includes(0)) return `\r\n\r\n${marker}0`
    throw error
  })
  const [answer, status] = out.split(marker) as [string, string]
  const at = answer.indexOf('\r\n\r\n')
  const text = answer.slice(at + 4)
  const body = text.startsWith('{') ? JSON.parse(text) : text
  const allowed = options.allow ?? [200, 201, 202, 204]
  assert.ok(allowed.includes(Number(status)), `${method} ${path}: ${status} ${text}`)
  return { status: Number(status), body, headers: answer.slice(0, at).toLowerCase() }
}

/** Long-polls as documented. */
async function reach(id: string, status: string): Promise<any> {
  for (let i = 0; i < 20; i++) {
    const { body } = await curl('GET', `/v2/instances/${id}?wait_for=${status}&timeout=10`)
    if (body.status === status) return body
    assert.notEqual(body.status, 'failed', JSON.stringify(body.status_reason))
  }
  return assert.fail(`${id} did not become ${status}`)
}

/** Runs a command over SSH with the host, port and user of the resource and the key of the installation. */
function ssh(instance: any, command: string): Promise<string> {
  const { user, host, port } = instance.ssh
  const options = [
    'BatchMode=yes',
    'StrictHostKeyChecking=no',
    `UserKnownHostsFile=${folder}/known`,
    'ConnectTimeout=10',
  ]
  const flags = options.flatMap((option) => ['-o', option])
  const identity = join(data, 'ssh/id_ed25519')
  return run('ssh', [...flags, '-q', '-i', identity, '-p', String(port), `${user}@${host}`, command]).then((s) =>
    s.trim(),
  )
}

before(async () => {
  port = await freePort()
  const files = await run('git', ['ls-files', '-co', '--exclude-standard'], { cwd: ROOT })
  writeFileSync(join(folder, 'files'), files)
  await run(
    'sh',
    ['-c', 'mkdir -p "$1" && tar -cf - -T "$2" | tar -xf - -C "$1"', 'sh', clone, join(folder, 'files')],
    {
      cwd: ROOT,
    },
  )
  await start()
})

after(async () => {
  if (npm?.exitCode === null) process.kill(-npm.pid!, 'SIGTERM')
  if (existsSync(join(data, 'installation.json'))) {
    await run('npm', ['run', 'teardown', '--', '--data-dir', data, '--yes'], { cwd: clone, env })
  }
  rmSync(folder, { recursive: true, force: true })
})

describe('instances', { timeout: 600_000 }, () => {
  test('the banner lists URLs and paths, and only the owner can read the credentials', () => {
    const banner = readFileSync(log, 'utf8')
    for (const part of [`http://127.0.0.1:${port}`, 'us-east-1', 'credentials.json', 'PostgreSQL', 'ssh']) {
      assert.ok(banner.includes(part), `the banner does not contain ${part}:\n${banner}`)
    }
    assert.match(banner, /KVM|TCG/i)
    const file = join(data, 'credentials.json')
    assert.equal(statSync(file).mode & 0o777, 0o600)
    const credentials = JSON.parse(readFileSync(file, 'utf8'))
    assert.deepEqual(Object.keys(credentials), ['api_url', 'console_url', 'docs_url', 'live_key', 'test_key'])
    assert.ok(!banner.includes(credentials.live_key), 'the banner shows a key')
    key = credentials.live_key
  })

  test('a real guest passes through its life cycle', async (t) => {
    let id = ''
    let instance: any

    await t.test('the documented request returns 201 with the documented fields', async () => {
      const body = JSON.stringify({
        region: 'us-east-1',
        plan: 'micro-1x',
        image: 'micro-linux',
        network: { subnet_id: 'sub_8f7e6d5c4b', assign_public_ip: true },
        tags: { env: 'production', app: 'api-server' },
        name: 'api-1',
        user_data: '#!/bin/sh\necho ran >> /root/user-data-ran\n',
      })
      const given = ['Content-Type: application/json', 'X-Request-ID: request-1']
      const { status, body: created, headers } = await curl('POST', '/v2/instances', { body, headers: given })
      assert.equal(status, 201)
      assert.deepEqual(Object.keys(created).slice(0, 7), [
        ...['id', 'status', 'region', 'plan', 'public_ip', 'created_at', 'links'],
      ])
      assert.match(created.id, /^inst_[0-9a-z]{10}$/)
      assert.equal(created.status, 'provisioning')
      assert.match(created.created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
      assert.ok(headers.includes(`location: http://127.0.0.1:${port}/v2/instances/${created.id}`))
      id = created.id
      instance = created
    })

    await t.test('the instance runs, and its links work', async () => {
      instance = await reach(id, 'running')
      assert.ok(instance.ready_at)
      assert.equal((await curl('GET', new URL(instance.links.self).pathname)).body.id, id)
      assert.match((await curl('GET', new URL(instance.links.console).pathname)).body, /<html/i)
    })

    await t.test('its trace covers the request until ready, and the durations add up', async () => {
      const { body: trace } = await curl('GET', '/v2/requests/request-1')
      assert.deepEqual([trace.method, trace.status, trace.resource], ['POST', 201, id])
      const kinds = trace.spans.map((span: any) => span.kind)
      for (const kind of ['call', 'transaction', 'step', 'boot', 'ready', 'event'])
        assert.ok(kinds.includes(kind), kind)
      const story = trace.spans.filter((span: any) => span.parent === null && span.kind !== 'event')
      const sum = story.reduce((total: number, span: any) => total + span.duration_ms, 0)
      const ready = story.find((span: any) => span.kind === 'ready')
      const took = Date.parse(ready.started_at) + ready.duration_ms - Date.parse(story[0].started_at)
      assert.ok(Math.abs(sum - took) < 2, `${sum} of ${took} ms: ${JSON.stringify(trace.spans)}`)
    })

    await t.test('SSH with the key prints the host name, and the user data has run', async () => {
      assert.equal(await ssh(instance, 'hostname'), 'api-1')
      await until('user data has run', async () => (await ssh(instance, 'cat /root/user-data-ran || true')) === 'ran')
    })

    await t.test('the console log can be read', async () => {
      assert.match((await curl('GET', `/v2/instances/${id}/console_log`)).body, /api-1|ready/i)
      const tail = (await curl('GET', `/v2/instances/${id}/console_log?tail=2`)).body as string
      assert.ok(tail.trim().split('\n').length <= 2)
    })

    await t.test('a reboot keeps the disk and does not run the user data again', async () => {
      await ssh(instance, 'echo kept > /root/file; cat /proc/sys/kernel/random/boot_id > /root/boot; sync')
      assert.equal((await curl('POST', `/v2/instances/${id}/actions/reboot`)).status, 202)
      instance = await reach(id, 'running')
      assert.equal(await ssh(instance, 'cat /root/file /root/user-data-ran'), 'kept\nran')
      assert.equal(
        await ssh(instance, 'cmp -s /root/boot /proc/sys/kernel/random/boot_id || echo another boot'),
        'another boot',
      )
    })

    await t.test('stops and starts', async () => {
      await curl('POST', `/v2/instances/${id}/actions/stop`, { body: '{}' })
      await reach(id, 'stopped')
      await curl('POST', `/v2/instances/${id}/actions/start`)
      instance = await reach(id, 'running')
      assert.equal(await ssh(instance, 'cat /root/file'), 'kept')
    })

    await t.test('a resize must allow the reboot; then the guest has the new memory and disk', async () => {
      const body = '{"plan":"standard-1x"}'
      const refused = await curl('PUT', `/v2/instances/${id}`, { body, allow: [409] })
      assert.equal(refused.body.code, 'reboot_required')
      await curl('PUT', `/v2/instances/${id}?allow_reboot=true`, { body })
      instance = await reach(id, 'running')
      assert.equal(instance.plan, 'standard-1x')
      const kib = Number(await ssh(instance, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
      assert.ok(kib > 900_000, `the guest has ${kib} KiB`)
      const disk = Number(await ssh(instance, "df -k / | awk 'END {print $2}'"))
      assert.ok(disk > 9_000_000, `the root disk has ${disk} KiB`)
    })

    await t.test('PUT changes tags', async () => {
      const body = '{"tags":{"env":"staging"}}'
      assert.deepEqual((await curl('PUT', `/v2/instances/${id}`, { body })).body.tags, { env: 'staging' })
    })

    await t.test('lists are paginated', async () => {
      const small = '{"region":"us-east-1","plan":"micro-1x","image":"micro-linux"}'
      const second = (await curl('POST', '/v2/instances', { body: small })).body
      assert.equal(second.public_ip, null)
      const one = await curl('GET', '/v2/instances?limit=1')
      assert.deepEqual([one.body.data[0].id, one.body.pagination.has_more], [second.id, true])
      assert.match(one.headers, /link: <[^>]+>; rel="next"/)
      const two = await curl('GET', `/v2/instances?limit=1&cursor=${one.body.pagination.next_cursor}`)
      assert.deepEqual([two.body.data[0].id, two.body.pagination.has_more], [id, false])
      await curl('DELETE', `/v2/instances/${second.id}`)
      await reach(second.id, 'terminated')
    })

    await t.test('the guest continues while the control plane is stopped, and the next start adopts it', async () => {
      const boot = await ssh(instance, 'cat /proc/sys/kernel/random/boot_id')
      const ended = new Promise((resolve) => npm.once('exit', resolve))
      process.kill(-npm.pid!, 'SIGTERM') // like Ctrl-C: npm and its child processes
      await ended
      assert.equal(await ssh(instance, 'hostname'), 'api-1')
      await start()
      assert.equal((await curl('GET', `/v2/instances/${id}`)).body.status, 'running')
      assert.equal(await ssh(instance, 'cat /proc/sys/kernel/random/boot_id'), boot)
    })

    await t.test('terminates and leaves nothing behind', async () => {
      assert.equal((await curl('DELETE', `/v2/instances/${id}`)).body.status, 'terminating')
      await reach(id, 'terminated')
      await until('nothing is left', () => leftovers(data).length === 0, 10)
      const region = (await curl('GET', '/v2/regions')).body.data[0]
      assert.deepEqual(region.capacity.used, { vcpus: 0, memory_bytes: 0, disk_bytes: 0 })
      assert.equal((await curl('GET', '/v2/instances')).body.data.length, 0)
    })
  })

  test('the documented request returns 201 on a fresh installation', async () => {
    const { status, body } = await curl('POST', '/v2/instances', { body: DOCUMENTED_BODY })
    assert.equal(status, 201)
    assert.deepEqual([body.status, body.plan, body.image], ['provisioning', 'standard-4x', 'ubuntu-22.04-lts'])
    await curl('DELETE', `/v2/instances/${body.id}`)
    await reach(body.id, 'terminated')
  })
})
