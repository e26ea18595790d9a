/**
 * The files of a machine. `machine.json` records what was created, `starting.json` a start in progress, `run.json` the
 * last start and how it ended. Each is replaced atomically: a reader sees the old file or the new one. The control plane
 * owns the folder, and QEMU can only open the files that were made for it. A guest that escapes from QEMU can therefore
 * neither forge a process ID for the control plane to kill nor replace a log by a link.
 */
import { randomBytes } from 'node:crypto'
import { open, readFile, rename, rm } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { isId } from '../../lib/id.ts'
import type { ProcessIdentity } from '../../lib/processes.ts'
import { InvalidSpecError, type MachineImage, TransientError } from '../driver.ts'
import type { Forward } from './network/network.ts'

/** The folders of the machines and, because socket paths must be short, of their sockets. */
export type Roots = { data_dir: string; run_dir: string }

/** `machine.json`: the properties of a machine. Contains no secret. */
export type MachineFile = {
  id: string
  environment_id: string
  disk: number
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  image: MachineImage
  /** QEMU runs as user `service_uid` + `uid_number`, so that guests cannot read each other's disks. */
  uid_number: number
}

/** `starting.json`: a start in progress, written before the process exists. */
export type StartFile = {
  run: number
  disk: number
  started_at: string
  vcpus: number
  memory_bytes: number
  public_ip: string | null
  ports: Forward[]
  ended: null | 'off' | 'stopped'
}

/** `run.json`: the last start and its process. `ended` is null while it runs and when it crashed. */
export type RunFile = StartFile & { process: ProcessIdentity }

export type MachinePaths = ReturnType<typeof machinePaths>

/** Maximum length of the path of a Unix socket. */
const SOCKET_PATH_BYTES = 107

/** The folder that holds one folder per machine. */
export const instancesFolder = (roots: Pick<Roots, 'data_dir'>) => join(roots.data_dir, 'instances')

/** The paths of a machine. Throws InvalidSpecError unless the ID is well-formed. */
export function machinePaths(roots: Roots, id: string, directory = join(instancesFolder(roots), checkedId(id))) {
  const sockets = join(roots.run_dir, checkedId(id))
  return {
    directory,
    disk: join(directory, 'disk.qcow2'),
    seed_iso: join(directory, 'seed.iso'),
    fw_cfg: join(directory, 'fwcfg'),
    machine_file: join(directory, 'machine.json'),
    start_file: join(directory, 'starting.json'),
    run_file: join(directory, 'run.json'),
    pid_file: join(directory, 'qemu.pid'),
    console: join(directory, 'console.log'),
    ready: join(directory, 'ready'),
    log: join(directory, 'qemu.log'),
    sockets,
    messages: join(sockets, 'messages'),
    control: join(sockets, 'qmp-control.sock'),
    monitor: join(sockets, 'qmp-monitor.sock'),
  }
}

function checkedId(id: string): string {
  if (isId('inst', id)) return id
  throw new InvalidSpecError(
    'invalid_instance_id',
    'The instance ID is malformed.',
    `not an instance id: ${JSON.stringify(id)}`,
  )
}

/** Throws if the folders cannot be used, with a one-line message for the operator. */
export function checkRoots(roots: Roots): void {
  for (const [name, path] of Object.entries({ data_dir: roots.data_dir, run_dir: roots.run_dir })) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are rejected
    if (!isAbsolute(path) || /[\x00-\x1f\x7f]/.test(path))
      throw new Error(`${name} must be an absolute path without control characters: ${JSON.stringify(path)}`)
  }
  const longest = Buffer.byteLength(machinePaths(roots, 'inst_0000000000').control)
  if (longest > SOCKET_PATH_BYTES)
    throw new Error(`run_dir is ${longest - SOCKET_PATH_BYTES} bytes too long for Unix sockets: ${roots.run_dir}`)
}

/** A unique name next to `path`. The sweep at adoption removes leftovers with such names. */
export const scratchName = (path: string, kind: 'new' | 'old') => `${path}.${kind}.${randomBytes(4).toString('hex')}`

/** The machine ID in a scratch name; null for any other name. */
export const scratchOwner = (name: string) => /^(inst_[0-9a-z]{10})\.(?:new|old)\.[0-9a-f]{8}$/.exec(name)?.[1] ?? null

/** Replaces a file atomically and durably. */
export async function writeJson(path: string, value: object): Promise<void> {
  // A fixed name: the next attempt overwrites what a crash leaves.
  const temporary = join(dirname(path), `.${basename(path)}.new`)
  try {
    const file = await open(temporary, 'w', 0o600)
    try {
      await file.writeFile(`${JSON.stringify(value)}\n`)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
    await syncFolder(dirname(path))
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/** Makes renames in a folder durable. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Null if the machine does not exist. */
export const readMachine = (paths: MachinePaths) => readJson<MachineFile>(paths.machine_file, ['id', 'disk', 'image'])

/** Null if no start is in progress or was interrupted. */
export const readStart = (paths: MachinePaths) => readJson<StartFile>(paths.start_file, ['run', 'disk', 'started_at'])

/** Null if the machine was never started. */
export const readRun = (paths: MachinePaths) => readJson<RunFile>(paths.run_file, ['run', 'disk', 'process', 'ended'])

async function readJson<T extends object>(path: string, required: (keyof T & string)[]): Promise<T | null> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (text === null) return null
  try {
    const value = JSON.parse(text)
    if (required.every((key) => key in value)) return value
  } catch {}
  throw new TransientError('unreadable_state', 'The state of the machine cannot be read.', `damaged file: ${path}`)
}
