/** Start: one line for each mistake of the operator, and several installations on one host. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { atMost, systemClock } from '../server/src/lib/clock.ts'
import { identify } from '../server/src/lib/processes.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane, run } from './control-plane.ts'

const ROOT = join(import.meta.dirname, '..')
const MAIN = join(ROOT, 'server/src/main.ts')
/** Moments of a SIGTERM, from the start of the process until after the start of the engine. */
const MOMENTS_MS = [150, 300, 450, 600, 750, 900, 1_100, 1_300, 1_600, 2_000]

let plane: ControlPlane
let folder: string
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cn-startup-'))
  plane = await ControlPlane.create()
})
after(async () => {
  await plane?.teardown()
  rmSync(folder, { recursive: true, force: true })
})

/** Starts with arguments that must be rejected; returns the error message. */
function refused(args: string[], env: Record<string, string> = {}): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 120_000,
  })
  assert.equal(status, 1, `${args.join(' ')}: exit code ${status}\n${stderr}`)
  assert.equal(stdout, '')
  assert.equal(stderr.trim().split('\n').length, 1, `more than one line:\n${stderr}`)
  return stderr.trim()
}
const fresh = (name: string) => ['--data-dir', join(folder, name), '--port', '0']

describe('start', { timeout: 300_000 }, () => {
  test('rejects an unknown option', () => {
    assert.match(refused(['--prot=8080']), /--prot.*--port/)
    assert.match(refused(['--port', 'http']), /--port/)
    assert.match(refused(fresh('env'), { CLOUDNEXUS_PROT: '1' }), /CLOUDNEXUS_PROT/)
  })

  test('rejects a port that is in use', () => {
    const said = refused(['--data-dir', join(folder, 'port'), '--port', String(plane.port)])
    assert.match(said, new RegExp(`${plane.port}.*--port`))
  })

  test('rejects a second start on the same data directory', () => {
    assert.match(refused(['--data-dir', plane.data_dir, '--port', '0']), new RegExp(String(plane.port)))
  })

  test('rejects a copy of a data directory, whether the original runs or not', async () => {
    const other = await ControlPlane.create()
    try {
      const copy = join(folder, 'copy')
      const start = ['--data-dir', copy, '--port', '0']
      await run('cp', ['-a', '--', other.data_dir, copy])
      assert.match(refused(start), /is a copy of .*, whose control plane runs \(process \d+\)/)
      await other.end('SIGTERM')
      rmSync(copy, { recursive: true })
      await run('cp', ['-a', '--', other.data_dir, copy])
      assert.match(refused(start), /is a copy of the data directory .* start once with --take-over/)
      assert.ok(!existsSync(join(copy, 'postgres/postmaster.pid')))
    } finally {
      await other.teardown()
    }
  })

  test('rejects a data directory of a newer version, and a directory that is no data directory', () => {
    const newer = join(folder, 'newer')
    mkdirSync(newer)
    writeFileSync(join(newer, 'installation.json'), JSON.stringify({ format: 99, id: 'x' }))
    assert.match(refused(fresh('newer')), /newer version/)
    const other = join(folder, 'photos')
    mkdirSync(other)
    writeFileSync(join(other, 'cat.jpg'), '')
    assert.match(refused(fresh('photos')), /--data-dir/)
  })

  test('two installations run on one host with separate IP addresses and guests', async () => {
    const other = await ControlPlane.create()
    try {
      const create = (on: ControlPlane) =>
        on.call('POST', '/v2/instances', {
          ...{ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', network: { assign_public_ip: true } },
        })
      const [a, b] = (await Promise.all([create(plane), create(other)])).map((answer) => answer.body)
      assert.notEqual(a.public_ip, b.public_ip)
      await Promise.all([plane.waitFor(a.id, 'running'), other.waitFor(b.id, 'running')])
      assert.equal((await plane.call('GET', `/v2/instances/${b.id}`)).status, 404)
      assert.equal((await plane.call('GET', '/v2/instances', undefined, other.credentials.live_key)).status, 401)
    } finally {
      await other.teardown()
    }
  })

  test('SIGTERM during the start ends the process in order, and the next start works', async () => {
    const other = await ControlPlane.create()
    try {
      await other.end('SIGTERM')
      for (const ms of MOMENTS_MS) {
        const args = [MAIN, '--data-dir', other.data_dir, '--port', String(other.port)]
        const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
        let errors = ''
        child.stderr.on('data', (chunk) => (errors += chunk))
        const ended = once(child, 'close')
        await systemClock.sleep(ms)
        child.kill('SIGTERM')
        const [code, signal] = (await atMost(systemClock, 10_000, ended)) ?? ['no exit within ten seconds']
        // Before the process handles signals, it has opened nothing.
        assert.ok(code === 0 || signal === 'SIGTERM', `after ${ms} ms: ${code} ${signal}\n${errors}`)
        const lines = errors.split('\n').filter((line) => line !== '' && !/"level":30/.test(line))
        assert.deepEqual(lines, [], `after ${ms} ms`)
        assert.ok(!existsSync(join(other.data_dir, 'postgres/postmaster.pid')), `after ${ms} ms PostgreSQL still runs`)
      }
      await other.start()
    } finally {
      await other.teardown()
    }
  })

  test('SIGTERM while PostgreSQL starts ends PostgreSQL too, also when it does not respond', async () => {
    const other = await ControlPlane.create()
    try {
      await other.end('SIGKILL')
      process.kill(other.postgres_pid, 'SIGKILL')
      await until('PostgreSQL has ended', () => identify(other.postgres_pid) === null)
      const killed = other.postgres_pid
      const child = spawn(process.execPath, [MAIN, '--data-dir', other.data_dir, '--port', String(other.port)])
      const ended = once(child, 'close')
      await until('PostgreSQL starts', () => ![killed, 0].includes(Number(other.postmaster()?.[0] ?? 0)))
      const postgres = other.postgres_pid
      process.kill(postgres, 'SIGSTOP')
      try {
        child.kill('SIGTERM')
        assert.deepEqual(await atMost(systemClock, 10_000, ended), [0, null])
      } finally {
        process.kill(postgres, 'SIGCONT')
      }
      await until('PostgreSQL has ended', () => identify(postgres) === null)
      await other.start()
    } finally {
      await other.teardown()
    }
  })

  test('SIGTERM ends the process within ten seconds and guests continue; teardown ends them', async () => {
    const { body } = await plane.call('GET', '/v2/instances')
    const before = performance.now()
    assert.equal((await plane.end('SIGTERM')).code, 0)
    assert.ok(performance.now() - before < 10_000)
    const pid = Number(readFileSync(join(plane.data_dir, 'instances', body.data[0].id, 'qemu.pid'), 'utf8'))
    process.kill(pid, 0)
    await plane.teardown()
    await until('the guest has ended', () => {
      try {
        return !process.kill(pid, 0)
      } catch {
        return true
      }
    })
    assert.throws(() => readFileSync(join(plane.data_dir, 'installation.json')))
  })
})
