/**
 * Starts QEMU so that it outlives the control plane and is confined. It gets its own session (so that signals to the
 * control plane's terminal or process group do not reach it), no pipe to the control plane, an empty environment and, if the
 * control plane is root, its own user whose only capability is to bind low ports. If that user has no access to the data
 * folder (for example in a home directory with mode 0700), QEMU runs in a private mount namespace in which the two folders
 * it needs are bound below the run folder. Every program of the chain replaces itself by the next (exec), so the process
 * ID does not change and the command line names the machine from the start.
 *
 * Without root, QEMU runs in the network namespace of the machines if there is one, where it has no capability.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CapacityError, TransientError } from '../driver.ts'
import { PROGRAM_ENVIRONMENT } from './run-program.ts'

/** How a program is confined. `uid: null`: it runs as the user of the control plane. */
export type Confinement = {
  uid: number | null
  /** The only groups of the user: that of the image, and that of /dev/kvm if QEMU needs it. */
  groups: number[]
  /** Folders to bind in a private mount namespace; without any, there is no namespace. */
  binds: { from: string; to: string }[]
  /** The start of the command, which puts the program in a systemd scope; or empty. */
  scope: string[]
  /** The part of the command that enters the namespace of the machines; or empty. Only without root. */
  enter: string[]
}

/** A constant script: all variable values are positional parameters, which a shell does not parse. */
const BIND_AND_EXEC = 'while [ "$1" != -- ]; do mount --bind -- "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'

/** The command that runs a command confined. Pure. */
export function confine(argv: string[], { uid, groups, binds, scope, enter }: Confinement): string[] {
  const inner = uid === null ? argv : [...asUser(uid, groups), ...argv]
  const entered = enter.length === 0 ? inner : [...enter, ...WITHOUT_CAPABILITIES, ...inner]
  const pairs = binds.flatMap(({ from, to }) => [from, to])
  const bound =
    binds.length === 0
      ? entered
      : ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', BIND_AND_EXEC, 'sh', ...pairs, '--', ...entered]
  return [...scope, ...bound]
}

const WITHOUT_CAPABILITIES = ['setpriv', '--inh-caps=-all', '--bounding-set=-all', '--no-new-privs', '--']

function asUser(uid: number, groups: number[]): string[] {
  const capabilities = '-all,+net_bind_service'
  return [
    'setpriv',
    ...['--reuid', `${uid}`, '--regid', `${uid}`],
    ...(groups.length === 0 ? ['--clear-groups'] : ['--groups', groups.join()]),
    ...[`--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`, `--bounding-set=${capabilities}`],
    '--no-new-privs',
    '--',
  ]
}

/** Node would make the descriptor blocking if it were one of the first three of the program. */
const WITH_OUTPUT = 'exec "$@" >&3 2>&3 3>&-'

/** Starts a program that outlives this process and writes its output to a descriptor. Resolves when it has started. */
export async function spawnDetached(argv: string[], output: number): Promise<ChildProcess & { pid: number }> {
  try {
    const child = spawn('sh', ['-c', WITH_OUTPUT, 'sh', ...argv], {
      cwd: '/',
      env: PROGRAM_ENVIRONMENT,
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', output],
    })
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
    child.unref()
    return child as ChildProcess & { pid: number }
  } catch (error) {
    throw spawnError(error as NodeJS.ErrnoException)
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

/** Whether all users have access to this folder, by its permission bits. */
export async function isReachable(folder: string): Promise<boolean> {
  for (let path = folder; ; path = dirname(path)) {
    if (((await stat(path)).mode & 0o001) === 0) return false
    if (path === '/') return true
  }
}
