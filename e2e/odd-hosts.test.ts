/** Hosts and data directories that are not as expected: the control plane works, or says in one line what to change. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  globSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { atMost, systemClock } from '../server/src/lib/clock.ts'
import { commandLine, identify } from '../server/src/lib/processes.ts'
import { freePort } from '../server/src/testing/free-port.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'

const ROOT = join(import.meta.dirname, '..')
const MAIN = join(ROOT, 'server/src/main.ts')
const INSTANCE = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }

let plane: ControlPlane
let scratch: string
before(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'cn-odd-'))
  plane = await ControlPlane.create()
  await plane.end('SIGTERM')
})
after(async () => {
  await plane?.teardown()
  rmSync(scratch, { recursive: true, force: true })
})

/** Starts with a data directory that must be rejected; returns the error message, which has one line. */
function refused(dataDir: string, { env = {}, command = [process.execPath] } = {}): string {
  const [program, ...args] = [...command, MAIN, '--data-dir', dataDir, '--port', `${plane.port}`]
  const { status, stderr, stdout } = spawnSync(program!, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 60_000,
  })
  assert.equal(status, 1, `exit code ${status}\n${stdout}${stderr}`)
  assert.equal(stderr.trim().split('\n').length, 1, stderr)
  return stderr.trim()
}

/** The contents of all small files of a data directory, without PostgreSQL, the log and the lock. */
function contentsOf(folder: string): string {
  const hash = createHash('sha256')
  for (const name of globSync('{*,ssh/*}', { cwd: folder }).sort()) {
    const file = join(folder, name)
    if (!['lock', 'postgres.log'].includes(name) && lstatSync(file).isFile())
      hash.update(`${name}\0`).update(readFileSync(file))
  }
  return hash.digest('hex')
}

describe('a damaged data directory', { timeout: 300_000 }, () => {
  const withoutKey = (text: string) => text.replace(/,\s*"test_key": "[^"]*"/, ',')
  const damages: [file: string, damage: (text: string) => string | null, message: RegExp][] = [
    ['credentials.json', withoutKey, /credentials\.json is not valid JSON/],
    ['credentials.json', () => '', /credentials\.json is not valid JSON/],
    ['credentials.json', () => 'null', /credentials\.json has no valid live_key/],
    ['credentials.json', (text) => text.replace('cn_test_sk_', 'cn_test_'), /no valid test_key/],
    ['secrets.json', (text) => text.slice(0, 40), /secrets\.json is damaged/],
    ['secrets.json', () => null, /secrets\.json is missing/],
    ['installation.json', () => '{}', /installation\.json is damaged/],
    ['ssh/id_ed25519.pub', () => null, /key pair in .*ssh is damaged/],
    ['ssh/id_ed25519.pub', () => 'ssh-ed25519 AAAA\nssh-rsa BBBB', /key pair in .*ssh is damaged/],
    ['ssh/id_ed25519', () => null, /key pair in .*ssh is damaged/],
    ['postgres/PG_VERSION', () => null, /PG_VERSION cannot be read/],
    ['images/img_microlinux/manifest.json', () => '{', /manifest\.json is damaged/],
    ['config.json', () => '{', /config\.json is not valid JSON/],
  ]
  for (const [file, damage, message] of damages) {
    test(`${file} is reported in one line, and nothing is replaced: ${message.source}`, () => {
      const path = join(plane.data_dir, file)
      const isNew = file === 'config.json'
      if (!isNew) renameSync(path, `${scratch}/kept`)
      const text = damage(isNew ? '' : readFileSync(`${scratch}/kept`, 'utf8'))
      if (text !== null) writeFileSync(path, text)
      try {
        const before = contentsOf(plane.data_dir)
        assert.match(refused(plane.data_dir), message)
        assert.equal(contentsOf(plane.data_dir), before)
      } finally {
        rmSync(path, { force: true })
        if (!isNew) renameSync(`${scratch}/kept`, path)
      }
    })
  }

  for (const file of ['credentials.json', 'secrets.json', 'run-dir', 'lock', 'config.json']) {
    test(`a folder or a pipe in place of ${file} is reported in one line`, () => {
      const path = join(plane.data_dir, file)
      const isNew = file === 'config.json'
      if (!isNew) renameSync(path, `${scratch}/kept`)
      try {
        mkdirSync(path)
        assert.match(refused(plane.data_dir), new RegExp(`${file}.*regular file`))
        rmSync(path, { recursive: true })
        // The lock is opened for writing, and a pipe can be locked.
        if (file !== 'lock') {
          assert.equal(spawnSync('mkfifo', [path]).status, 0)
          assert.match(refused(plane.data_dir), new RegExp(`${file}.*regular file`))
        }
      } finally {
        rmSync(path, { recursive: true, force: true })
        if (!isNew) renameSync(`${scratch}/kept`, path)
      }
    })
  }
})

describe('an odd host', { timeout: 600_000 }, () => {
  const noServer = globSync('/usr/lib/postgresql/*/bin/postgres').length === 0 && 'no PostgreSQL is installed'
  test('runs an installed PostgreSQL with --postgres system', { skip: noServer }, async () => {
    const own = await ControlPlane.create({ env: { CLOUDNEXUS_POSTGRES: 'system' } })
    try {
      await own.printed(/Database +PostgreSQL \d+\.\d+, system/)
      assert.match(commandLine(own.postgres_pid)[0]!, /^\/usr\/lib\/postgresql\//)
      assert.equal((await own.call('POST', '/v2/instances?dry_run=true', INSTANCE)).status, 200)
    } finally {
      await own.teardown()
    }
  })

  test('with a strict umask, and odd characters in the path of the data directory, runs guests', async () => {
    const odd = await ControlPlane.create({ umask: '077', open: true, folder: "my data: a;b,c é#%20'" })
    try {
      const { body } = await odd.call('POST', '/v2/instances', INSTANCE)
      await odd.waitFor(body.id, 'running')
      assert.equal(lstatSync(join(odd.data_dir, 'credentials.json')).mode & 0o077, 0)
    } finally {
      await odd.teardown()
    }
  })

  test('builds the image in a folder with odd characters, with all its libraries', () => {
    const out = join(scratch, 'my data: a;b,c')
    mkdirSync(out)
    const build = join(ROOT, 'images/micro-linux/build.sh')
    const { status, stderr } = spawnSync('bash', [build, out], { encoding: 'utf8', timeout: 300_000 })
    assert.equal(status, 0, stderr)
    const raw = join(scratch, 'disk.raw')
    assert.equal(spawnSync('qemu-img', ['convert', '-O', 'raw', join(out, 'disk.qcow2'), raw]).status, 0)
    const { stdout } = spawnSync('/sbin/debugfs', ['-R', 'ls -p /usr/lib/x86_64-linux-gnu', raw], { encoding: 'utf8' })
    for (const library of ['libtomcrypt', 'libtommath', 'libc.so']) assert.match(stdout, new RegExp(library))
  })

  test('rejects a data directory of another user, and one on a read-only file system', () => {
    const file = join(plane.data_dir, 'installation.json')
    const { uid, gid } = lstatSync(file)
    chownSync(file, 12_345, gid)
    assert.match(refused(plane.data_dir), /belongs to the user with the ID 12345/)
    chownSync(file, uid, gid)
    const readOnly = 'mount --bind -- "$1" "$1" && mount -o remount,ro,bind -- "$1" && shift && exec "$@"'
    const command = ['unshare', '--mount', 'sh', '-c', readOnly, 'sh', plane.data_dir, process.execPath]
    assert.match(refused(plane.data_dir, { command }), /is on a read-only file system/)
  })

  test('rejects a config.json with a password that other users can read', () => {
    const folder = join(scratch, 'password')
    mkdirSync(folder)
    const file = join(folder, 'config.json')
    const url = 'postgres://cn:secret@127.0.0.1:1/cn'
    writeFileSync(file, JSON.stringify({ database_url: url }))
    chmodSync(file, 0o640)
    const message = refused(folder)
    assert.match(message, /contains a password and other users can read it\. Run: chmod 600/)
    assert.doesNotMatch(message, /secret/)
    chmodSync(file, 0o600)
    assert.match(refused(folder), /Cannot open the database/)
  })

  test('a pipe in the temporary folder does not block the start of an ordinary user', () => {
    const temporary = join(scratch, 'tmp')
    mkdirSync(join(temporary, 'cloudnexus-trap'), { recursive: true })
    assert.equal(spawnSync('mkfifo', [join(temporary, 'cloudnexus-trap/installation.json')]).status, 0)
    const folder = join(scratch, 'user')
    mkdirSync(folder)
    for (const path of [scratch, temporary, folder]) chmodSync(path, 0o777)
    const user = ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups', '--', process.execPath]
    const env = { TMPDIR: temporary, XDG_RUNTIME_DIR: '', DATABASE_URL: 'postgres://cn@127.0.0.1:1/cn' }
    assert.match(refused(folder, { command: user, env }), /Cannot open the database/)
  })
})

describe('a control plane that npm started', { timeout: 300_000 }, () => {
  /** Starts it and returns npm's process and the process ID of the control plane. */
  async function start(): Promise<{ npm: ChildProcess; pid: number }> {
    const port = await freePort()
    const args = ['start', '--', '--data-dir', plane.data_dir, '--port', `${port}`]
    const npm = spawn('npm', args, { cwd: ROOT, stdio: 'ignore', detached: true })
    await until('it is ready', async () => (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null))?.ok)
    return { npm, pid: JSON.parse(readFileSync(join(plane.data_dir, 'lock'), 'utf8')).pid }
  }

  for (const signal of ['SIGTERM', 'SIGKILL', 'SIGHUP'] as const) {
    test(`stops in order when npm gets ${signal}`, async () => {
      const { npm, pid } = await start()
      const ended = atMost(systemClock, 15_000, new Promise((resolve) => npm.once('exit', () => resolve(true))))
      process.kill(npm.pid!, signal)
      assert.ok(await ended)
      await until('the control plane has ended', () => identify(pid) === null, 15)
      assert.equal(plane.postmaster(), null, 'PostgreSQL was stopped too')
    })
  }

  test('stops in order when it gets SIGHUP itself', async () => {
    const { pid } = await start()
    process.kill(pid, 'SIGHUP')
    await until('the control plane has ended', () => identify(pid) === null, 15)
    assert.equal(plane.postmaster(), null)
  })
})

describe('too few descriptors', { timeout: 300_000 }, () => {
  test('300 idle connections do not end a healthy guest, and requests are served', async () => {
    const starved = await ControlPlane.create({ descriptors: 256 })
    const sockets: Socket[] = []
    try {
      const { body } = await starved.call('POST', '/v2/instances', INSTANCE)
      const before = await starved.waitFor(body.id, 'running')
      for (let i = 0; i < 300; i++) {
        sockets.push(connect({ port: starved.port, host: '127.0.0.1' }).on('error', () => {}))
      }
      await until(
        'connections are closed',
        () => sockets.filter((socket) => socket.destroyed || socket.closed).length > 200,
      )
      for (const socket of sockets.splice(0, 10)) socket.destroy()
      for (let i = 0; i < 20; i++) {
        const { status } = await starved.call('PATCH', `/v2/instances/${body.id}`, { tags: { n: `${i}` } })
        assert.equal(status, 200)
      }
      const after = await starved.waitFor(body.id, 'running')
      assert.equal(after.started_at, before.started_at)
      const { body: events } = await starved.call('GET', '/v2/events?limit=100')
      const types = events.data.map(({ type }: { type: string }) => type)
      assert.deepEqual(
        types.filter((type: string) => /crash|recover/.test(type)),
        [],
      )
      assert.doesNotMatch(readFileSync(starved.log_file, 'utf8'), /PostgreSQL has exited|EMFILE/)
    } finally {
      for (const socket of sockets) socket.destroy()
      await starved.teardown()
    }
  })
})
