/**
 * The network namespace of all machines of an installation that runs without root. The host's packet filter cannot
 * distinguish the machines of a user from its other programs, so they run in a namespace whose only way out is a program of
 * this user, and the rules of egress-rules.ts act on everything that leaves. Two processes outlive the control plane, as
 * machines do:
 *
 * - the *holder* does nothing. It keeps the user, network and mount namespace, which others enter.
 * - the *uplink* (slirp4netns) connects the namespace to the host with sockets of its own, answers DNS, and forwards
 *   ports of the host to ports of the namespace.
 *
 * `ensure` is level-triggered: it starts what does not run. If the holder ended while machines run, a new one enters the
 * namespace of a machine, so that all machines stay in one.
 */
import { mkdir, readdir, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { commandLine, identify, isAlive, meansGone, type ProcessIdentity } from '../../lib/processes.ts'
import { TransientError } from '../driver.ts'
import { instancesFolder } from './machine-files.ts'
import { UPLINK } from './network/uplink.ts'
import { findMachineProcesses, killProcess } from './process.ts'
import { runProgram } from './run-program.ts'

export type GuestNetwork = {
  /** Socket of the uplink's control interface. */
  readonly api_socket: string
  /** The start of a command that runs in the namespace, with all of its capabilities. */
  enter(): string[]
  /** Starts what does not run. True if something was started. Throws TransientError. */
  ensure(): Promise<boolean>
  /** Ends both processes, unless a machine runs in the namespace. */
  close(): Promise<void>
}

/** This host does not support the namespace or the uplink. */
export class GuestNetworkError extends Error {}

const START_MS = 10_000
const KILL_MS = 2_000
const DEVICE = 'uplink0'

/** Constant scripts that leave one process behind; the first has the DNS server of the uplink in place of the host's. */
const HOLD = 'setsid tail --follow "$1" </dev/null >/dev/null 2>&1 &'
const MOUNT_AND_HOLD = `mount --bind -- "$1" /etc/resolv.conf && ${HOLD}`
/** The uplink closes the third descriptor, which is the output of this script, when it is connected. */
const CONNECT = 'log=$1; shift; setsid slirp4netns --ready-fd=3 "$@" 3>&1 >"$log" 2>&1 </dev/null &'

/** The folders of an installation. */
type Folders = { data_dir: string; run_dir: string }

/** The namespace of an installation; `ensure` makes it. */
export function guestNetwork(folders: Folders): GuestNetwork {
  const { folder, api_socket, resolv_conf } = paths(folders)
  let holder: ProcessIdentity | null = null
  let uplink: ProcessIdentity | null = null

  async function hold(): Promise<ProcessIdentity> {
    const member = await memberOf(folders.data_dir)
    await writeFile(resolv_conf, `nameserver ${UPLINK.dns}\n`)
    const unshare = ['unshare', '--user', '--map-root-user', '--net', '--mount', '--propagation', 'private', '--']
    const [enter, script] = member === null ? [unshare, MOUNT_AND_HOLD] : [entering(member), HOLD]
    await runProgram([...enter, 'sh', '-c', script, 'sh', resolv_conf], START_MS)
    const made = await findHolder(folders)
    if (made === null) throw new GuestNetworkError('the namespace of the machines ended at once')
    return made
  }

  async function connect({ pid }: ProcessIdentity): Promise<ProcessIdentity> {
    await rm(api_socket, { force: true })
    const log = join(folder, 'uplink.log')
    const network = ['--configure', '--mtu=65520', `--cidr=${UPLINK.cidr}`, '--disable-host-loopback']
    const options = [...network, '--enable-sandbox', '--enable-seccomp', socketOption(api_socket), `${pid}`, DEVICE]
    const ready = await runProgram(['sh', '-c', CONNECT, 'sh', log, ...options], START_MS)
    const made = await findUplink(folders)
    if (ready === '1' && made !== null) return made
    const said = await runProgram(['tail', '--bytes=400', log])
    throw new GuestNetworkError(`slirp4netns: ${said.trim().split('\n').join('; ') || 'ended at once'}`)
  }

  return {
    api_socket,
    enter() {
      if (holder !== null) return entering(holder)
      throw new TransientError('guest_network', 'The network of the machines does not run yet.')
    },
    async ensure() {
      if (holder && uplink && isAlive(holder) && isAlive(uplink)) return false
      await mkdir(folder, { recursive: true, mode: 0o700 })
      holder = (await findHolder(folders)) ?? (await hold())
      uplink = (await findUplink(folders)) ?? (await connect(holder))
      return true
    },
    async close() {
      if ((await memberOf(folders.data_dir)) === null) await removeGuestNetwork(folders)
    },
  }
}

/** Ends the processes of an installation's namespace, if there are any. */
export async function removeGuestNetwork(folders: Pick<Folders, 'run_dir'>): Promise<void> {
  for (const each of [await findUplink(folders), await findHolder(folders)])
    if (each) await killProcess(each, KILL_MS, systemClock)
}

function paths({ run_dir }: Pick<Folders, 'run_dir'>) {
  const folder = join(run_dir, 'network')
  return { folder, api_socket: join(folder, 'uplink.sock'), resolv_conf: join(folder, 'resolv.conf') }
}

const socketOption = (socket: string) => `--api-socket=${socket}`

const entering = ({ pid }: ProcessIdentity) => [
  ...['nsenter', '--user', '--net', '--mount', '--preserve-credentials'],
  ...[`--target=${pid}`, '--'],
]

const findHolder = (folders: Pick<Folders, 'run_dir'>) => findOwn('tail', paths(folders).resolv_conf)
const findUplink = (folders: Pick<Folders, 'run_dir'>) =>
  findOwn('slirp4netns', socketOption(paths(folders).api_socket))

/** The process of this user that runs a program with this argument; null if there is none. */
async function findOwn(program: string, argument: string): Promise<ProcessIdentity | null> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)) {
    const [name, ...options] = commandLine(pid)
    if (name !== program || !options.includes(argument)) continue
    const owner = await unlessGone(stat(`/proc/${pid}`))
    const identity = owner?.uid === process.getuid!() ? identify(pid) : null
    if (identity) return identity
  }
  return null
}

/** A machine that runs in a network namespace other than that of this process; null if there is none. */
async function memberOf(data_dir: string): Promise<ProcessIdentity | null> {
  const own = await readlink('/proc/self/ns/net')
  for (const { process: machine } of await findMachineProcesses(instancesFolder({ data_dir }))) {
    const its = await unlessGone(readlink(`/proc/${machine.pid}/ns/net`))
    if (its !== null && its !== own) return machine
  }
  return null
}

async function unlessGone<T>(reading: Promise<T>): Promise<T | null> {
  return reading.catch((error: unknown) => {
    if (meansGone(error)) return null
    throw error
  })
}
