/** PgBouncer for tests: Debian's package, downloaded and unpacked, never installed, because that would start a service. */
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, globSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from '../db/database.ts'
import { freePort } from '../testing/free-port.ts'
import { until } from '../testing/until.ts'

/** Starts a pooler for these users in front of the server with this socket folder, on a port of 127.0.0.1. */
export async function startPgBouncer(socketFolder: string, mode: 'transaction' | 'session', users: string[]) {
  const unpacked = unpack()
  const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-pgbouncer-'))
  const port = await freePort()
  const configuration = [
    '[databases]',
    `* = host=${socketFolder}`,
    '[pgbouncer]',
    ...['listen_addr = 127.0.0.1', `listen_port = ${port}`, 'unix_socket_dir =', 'auth_type = trust'],
    `auth_file = ${join(folder, 'users')}`,
    ...[`pool_mode = ${mode}`, `logfile = ${join(folder, 'log')}`],
  ]
  const file = join(folder, 'pgbouncer.ini')
  writeFileSync(file, configuration.join('\n'))
  writeFileSync(join(folder, 'users'), users.map((user) => `"${user}" ""\n`).join(''))
  const libraries = globSync(join(unpacked, 'usr/lib/*-linux-gnu')).join(':')
  // It refuses to run as root, but needs access to the socket: a user namespace, as for the embedded PostgreSQL.
  const namespace = [
    '--user',
    '--map-user=65534',
    '--map-group=65534',
    '--',
    join(unpacked, 'usr/sbin/pgbouncer'),
    file,
  ]
  const child = spawn('unshare', namespace, { env: { LD_LIBRARY_PATH: libraries }, stdio: 'ignore' })
  const stop = async () => {
    child.kill('SIGTERM')
    await until('the pooler has ended', () => child.exitCode !== null || child.signalCode !== null, 20)
    rmSync(folder, { recursive: true, force: true })
  }
  await until('the pooler accepts connections', async () => {
    const sql = connect({ url: `postgres://cloudnexus@127.0.0.1:${port}/postgres`, max: 1, name: 'pooler' })
    return sql`select`
      .then(
        () => true,
        () => false,
      )
      .finally(() => sql.end())
  })
  return { port, stop }
}

/** Downloads the package and those of its libraries that a host may lack, once for all runs. */
function unpack(): string {
  const folder = join(process.env.TEST_CACHE_DIR ?? tmpdir(), `cloudnexus-test-pgbouncer-${process.getuid!()}`)
  if (existsSync(folder)) return folder
  const fresh = `${folder}.${process.pid}`
  mkdirSync(fresh, { recursive: true })
  const depends = execFileSync('apt-cache', ['depends', 'pgbouncer'], { encoding: 'utf8' })
  const libraries = [...depends.matchAll(/Depends: (lib(?:event|c-ares|cares)\S*)/g)].map(([, name]) => name!)
  const options = ['-qq', '-o', 'APT::Sandbox::User=root', 'download', 'pgbouncer', ...libraries]
  execFileSync('apt-get', options, { cwd: fresh, stdio: ['ignore', 'ignore', 'inherit'], timeout: 120_000 })
  for (const file of globSync('*.deb', { cwd: fresh })) {
    execFileSync('dpkg-deb', ['-x', file, '.'], { cwd: fresh })
    rmSync(join(fresh, file))
  }
  renameSync(fresh, folder)
  return folder
}
