/**
 * The PostgreSQL that CloudNexus runs itself: a child process that outlives the control plane.
 *
 * It runs in its own session with files as stdio, so that Ctrl-C does not reach it. After the control plane was killed,
 * the next start finds the server through `postmaster.pid` and adopts it. PostgreSQL does not run as root; as root it is
 * therefore started in a user namespace, as user 65534. It listens only on a Unix socket, in a folder that other
 * users cannot enter.
 */
import { spawn, spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import type { Clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import { commandLine, identify, isAlive, type ProcessIdentity, signal, whileAlive } from '../lib/processes.ts'
import { findPrograms, type Programs } from './programs.ts'

const USER = 'cloudnexus'
const START_MS = 30_000
const LOG_LIMIT_BYTES = 16 * 2 ** 20

export type EmbeddedPostgres = {
  /** Starts or adopts the server of the data directory, and keeps it running until `stop`. */
  start(): Promise<void>
  /** Connection string of the named database. */
  url(database: string): string
  /** Stops the server, also during its start; after `deadlineMs`, immediately. The data stays. */
  stop(deadlineMs: number): Promise<void>
}

type Options = {
  data_dir: string
  run_dir: string
  /** Whose programs it runs; see programs.ts. */
  postgres?: 'embedded' | 'system'
  log: Log
  clock: Clock
  settings?: Record<string, string>
}

/** The server of this data directory; it does not run before `start`. */
export function createEmbeddedPostgres(options: Options): EmbeddedPostgres {
  const { clock, log } = options
  const data = join(options.data_dir, 'postgres')
  const stopping = new AbortController()
  let server: ProcessIdentity | null = null
  let programs: Programs | null = null
  /** The start, then the supervision; it ends when `stopping` aborts. */
  let work: Promise<unknown> = Promise.resolve()

  async function open(): Promise<void> {
    const isNew = !existsSync(data)
    const version = isNew ? null : versionOf(data)
    programs = findPrograms(options.postgres ?? 'embedded', version)
    if (version !== null && version !== programs.major) {
      throw new StartupError(
        `${data} belongs to PostgreSQL ${version}, but this release runs ${programs.major}. Start the release that created it, set --postgres system if PostgreSQL ${version} is installed, or set another --data-dir.`,
      )
    }
    mkdirSync(options.run_dir, { recursive: true, mode: 0o700 })
    if (isNew) initialise(programs, data)
    await launch(programs)
    stopping.signal.throwIfAborted()
  }

  /** Resolves once the server accepts connections, or when `stopping` aborts. */
  async function launch({ folder }: Programs): Promise<void> {
    const logFile = join(options.data_dir, 'postgres.log')
    const deadline = clock.monotonic() + START_MS
    // After kill -9 the lock of the old server stays for a moment, so a start can need several attempts.
    while (!stopping.signal.aborted) {
      const running = findServer(data)
      if (running) log.info({ pid: running.pid }, 'adopted the running PostgreSQL')
      server = running ?? spawnServer(folder, logFile)
      while (server && isAlive(server) && !stopping.signal.aborted) {
        if (readyPid(data) === server.pid) return
        if (clock.monotonic() > deadline) break
        await clock.sleep(20, stopping.signal)
      }
      if (clock.monotonic() > deadline) {
        throw new StartupError(`PostgreSQL does not start; see the end of ${logFile}.\n${lastLines(logFile)}`)
      }
      await clock.sleep(200, stopping.signal)
    }
  }

  function spawnServer(folder: string, logFile: string): ProcessIdentity | null {
    if (existsSync(logFile) && statSync(logFile).size > LOG_LIMIT_BYTES) rmSync(logFile)
    const out = openSync(logFile, 'a', 0o600)
    const settings = { ...DEFAULTS, unix_socket_directories: options.run_dir, ...options.settings }
    const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const [command, args] = unprivileged(join(folder, 'postgres'), ['-D', data, ...flags])
    const child = spawn(command, args, { detached: true, stdio: ['ignore', out, out], env: environment() })
    closeSync(out)
    child.on('error', (error) => log.error({ error: error.message }, 'cannot start PostgreSQL'))
    child.unref()
    return child.pid === undefined ? null : identify(child.pid)
  }

  async function supervise(): Promise<void> {
    for (;;) {
      await clock.sleep(250, stopping.signal)
      if (stopping.signal.aborted) return
      if (server && !hasEnded(server)) continue
      log.error({}, 'PostgreSQL has exited; restarting it')
      await launch(programs!).then(
        () => log.info({ pid: server?.pid }, 'PostgreSQL has restarted'),
        (error: Error) => log.error({ error: error.message }, 'PostgreSQL does not start'),
      )
    }
  }

  return {
    async start() {
      const opening = open()
      work = opening.catch(() => {})
      await opening
      work = supervise()
    },
    url: (database) => `postgres://${USER}@/${database}?host=${encodeURIComponent(options.run_dir)}`,
    async stop(deadlineMs) {
      const deadline = clock.monotonic() + deadlineMs
      stopping.abort()
      await work
      if (!server) return
      signal(server, 'SIGINT')
      while (isAlive(server)) {
        if (clock.monotonic() > deadline) return signal(server, 'SIGQUIT')
        await clock.sleep(20)
      }
    },
  }
}

/** False also if the process cannot be observed now. */
function hasEnded(server: ProcessIdentity): boolean {
  try {
    return !isAlive(server)
  } catch {
    return false
  }
}

const DEFAULTS: Record<string, string> = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  max_connections: '100',
  shared_buffers: '128MB',
  timezone: 'UTC',
  log_timezone: 'UTC',
  lc_messages: 'C',
  log_checkpoints: 'off',
}

function environment(): NodeJS.ProcessEnv {
  return { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/bin:/bin' }
}

/** The server that `postmaster.pid` names, if it is a live server of this data directory. */
export function findServer(data: string): ProcessIdentity | null {
  const text = whileAlive(() => readFileSync(join(data, 'postmaster.pid'), 'utf8'))
  if (text === null) return null
  const pid = Number(text.split('\n')[0])
  const args = commandLine(pid)
  return args[0]?.endsWith('postgres') && args.includes(data) ? identify(pid) : null
}

/** The process ID of the server that accepts connections, or null. */
function readyPid(data: string): number | null {
  try {
    const lines = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')
    return lines[7]?.trim() === 'ready' ? Number(lines[0]) : null
  } catch {
    return null
  }
}

function versionOf(data: string): number {
  try {
    return Number(readFileSync(join(data, 'PG_VERSION'), 'utf8').trim())
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StartupError(`${data} is damaged: PG_VERSION cannot be read (${code}). Restore it from a backup.`)
  }
}

function initialise({ folder }: Programs, data: string): void {
  const fresh = `${data}.new`
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(dirname(data), { recursive: true })
  const flags = ['-D', fresh, '-U', USER, '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-instructions']
  const [command, args] = unprivileged(join(folder, 'initdb'), flags)
  const done = spawnSync(command, args, { encoding: 'utf8', env: environment(), timeout: 60_000 })
  if (done.status !== 0) {
    const reason = (done.stderr || done.error?.message || '').trim().split('\n').slice(-3).join('\n')
    throw new StartupError(
      `Cannot create the embedded PostgreSQL in ${dirname(data)}: ${reason}\nSet another --data-dir, or use an external PostgreSQL with DATABASE_URL.`,
    )
  }
  renameSync(fresh, data)
}

/**
 * The command to run a program without root: in a user namespace as user 65534. The same applies when the user ID has no
 * name, as in containers, because initdb requires one.
 */
function unprivileged(program: string, args: string[]): [string, string[]] {
  if (process.getuid?.() !== 0 && hasName()) return [program, args]
  return ['unshare', ['--user', '--map-user=65534', '--map-group=65534', '--', program, ...args]]
}

function hasName(): boolean {
  try {
    userInfo()
    return true
  } catch {
    return false
  }
}

function lastLines(file: string): string {
  return readFileSync(file, 'utf8').trim().split('\n').slice(-5).join('\n')
}
