/**
 * How QEMU is started so that it outlives us and can do little. It gets its own session (a Ctrl-C in our terminal or the
 * end of our process group passes it by), files instead of pipes, an empty environment, and, when we are root, a user of
 * its own without any capability but that of binding low ports. Where that user cannot walk to the data folder (a clone
 * in a home of mode 0700), QEMU runs in a private mount namespace in which exactly the two folders it needs are bound
 * below the run folder. Every step of the chain replaces itself by the next (exec), so the process id stays the same
 * from the first to QEMU, and the command line names the machine from the first moment.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CapacityError, TransientError } from '../driver.ts'
import { PROGRAM_ENVIRONMENT } from './run-program.ts'

/** What holds QEMU. `uid: null`: we are no root, so it runs as ourselves. */
export type Confinement = {
  uid: number | null
  /** Group that may use /dev/kvm, if QEMU needs it. */
  group: number | null
  /** Folders to bind in a private mount namespace; empty: no namespace. */
  binds: { from: string; to: string }[]
  /** Unit name when systemd shall hold it in a scope of its own. */
  systemd_unit: string | null
}

/** Constant text: everything variable arrives as positional parameters, which a shell never parses. */
const BIND_AND_EXEC = 'while [ "$1" != -- ]; do mount --bind -- "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'

/** Puts the confinement in front of a command. Pure. */
export function confine(argv: string[], { uid, group, binds, systemd_unit }: Confinement): string[] {
  const inner = uid === null ? argv : [...asUser(uid, group), ...argv]
  const pairs = binds.flatMap(({ from, to }) => [from, to])
  const bound =
    binds.length === 0
      ? inner
      : ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', BIND_AND_EXEC, 'sh', ...pairs, '--', ...inner]
  const scope = ['systemd-run', '--scope', '--quiet', '--collect', `--unit=${systemd_unit}`, '--']
  return systemd_unit === null ? bound : [...scope, ...bound]
}

function asUser(uid: number, group: number | null): string[] {
  const capabilities = '-all,+net_bind_service'
  return [
    'setpriv',
    ...['--reuid', `${uid}`, '--regid', `${uid}`],
    ...(group === null ? ['--clear-groups'] : ['--groups', `${group}`]),
    ...[`--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`, `--bounding-set=${capabilities}`],
    '--no-new-privs',
    '--',
  ]
}

/** Starts a program that outlives us, its output appended to a file. Resolves once it runs; never waits for it. */
export async function spawnDetached(argv: string[], logFile: string): Promise<ChildProcess & { pid: number }> {
  const [program, ...args] = argv
  const log: FileHandle = await open(logFile, 'a', 0o600)
  try {
    const child = spawn(program!, args, {
      cwd: '/',
      env: PROGRAM_ENVIRONMENT,
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    })
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
    child.unref()
    return child as ChildProcess & { pid: number }
  } catch (error) {
    throw spawnError(error as NodeJS.ErrnoException)
  } finally {
    await log.close()
  }
}

function spawnError(error: NodeJS.ErrnoException) {
  const internal = `spawn failed: ${error.message}`
  if (error.code === 'ENOMEM' || error.code === 'EAGAIN')
    return new CapacityError('host_memory', 'The host has insufficient memory for this machine.', internal, {
      cause: error,
    })
  return new TransientError('start_failed', 'The machine could not be started.', internal, { cause: error })
}

/** True when any user can walk to this folder, by the classic permission bits. */
export async function isReachable(folder: string): Promise<boolean> {
  for (let path = folder; ; path = dirname(path)) {
    if (((await stat(path)).mode & 0o001) === 0) return false
    if (path === '/') return true
  }
}
