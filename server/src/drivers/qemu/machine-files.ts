/**
 * What a machine is on disk. The folder is the truth that outlives every process: `machine.json` says what was made,
 * `starting.json` what is being started, `run.json` what was last started and how it ended. Each is replaced atomically, so a reader sees the old or the new
 * one, never half. The folder belongs to us and is closed to its QEMU process (which may only open the files in it that
 * were made for it): a guest that breaks out of QEMU can neither invent a process id for us to kill nor swap a log for a link.
 */
import { randomBytes } from 'node:crypto'
import { open, readFile, rename, rm } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { isId } from '../../lib/id.ts'
import { InvalidSpecError, type MachineImage, type PortForward, TransientError } from '../driver.ts'
import type { ProcessIdentity } from './process.ts'

/** Where machines live: their disks, and (for short socket paths) their sockets. */
export type Roots = { data_dir: string; run_dir: string }

/** Facts of a machine that are needed without the database. No secret is among them. */
export type MachineFile = {
  id: string
  environment_id: string
  disk: number
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  image: MachineImage
  /** Its QEMU runs as the service user's id plus this number, so that guests cannot read each other's disks. */
  uid_number: number
}

/** A start that has begun: written before its process exists. */
export type StartFile = {
  run: number
  disk: number
  started_at: string
  vcpus: number
  memory_bytes: number
  public_ip: string | null
  ports: PortForward[]
  ended: null | 'off' | 'stopped'
}

/** The last start, with the identity of its process, and how it ended: null while it runs, and when it crashed. */
export type RunFile = StartFile & { process: ProcessIdentity }

export type MachinePaths = ReturnType<typeof machinePaths>

/** Longest path that fits a unix socket address. */
const SOCKET_PATH_BYTES = 107

/** The folder that holds one folder per machine. */
export const instancesFolder = (roots: Pick<Roots, 'data_dir'>) => join(roots.data_dir, 'instances')

/** Names of a machine's files. Nothing but a well-formed id gets past this line into a path. */
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
    control: join(sockets, 'qmp-control.sock'),
    monitor: join(sockets, 'qmp-monitor.sock'),
  }
}

function checkedId(id: string): string {
  if (isId('inst', id)) return id
  throw new InvalidSpecError(
    'invalid_instance_id',
    'The instance id is malformed.',
    `not an instance id: ${JSON.stringify(id)}`,
  )
}

/** Refuses folders that can never work, in one line for the operator. */
export function checkRoots(roots: Roots): void {
  for (const [name, path] of Object.entries({ data_dir: roots.data_dir, run_dir: roots.run_dir })) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
    if (!isAbsolute(path) || /[\x00-\x1f\x7f]/.test(path))
      throw new Error(`${name} must be an absolute path without control characters: ${JSON.stringify(path)}`)
  }
  const longest = Buffer.byteLength(machinePaths(roots, 'inst_0000000000').control)
  if (longest > SOCKET_PATH_BYTES)
    throw new Error(`run_dir is ${longest - SOCKET_PATH_BYTES} bytes too long for unix sockets: ${roots.run_dir}`)
}

/** A name next to `path` that no other attempt uses; leftovers of this form are swept at adoption. */
export const scratchName = (path: string, kind: 'new' | 'old') => `${path}.${kind}.${randomBytes(4).toString('hex')}`

/** The machine that a scratch name belongs to, or null when the name is none. */
export const scratchOwner = (name: string) => /^(inst_[0-9a-z]{10})\.(?:new|old)\.[0-9a-f]{8}$/.exec(name)?.[1] ?? null

/** Replaces a file at once: a crash leaves the old content or the new, and the new survives a power cut. */
export async function writeJson(path: string, value: object): Promise<void> {
  // One name: what a crash leaves is overwritten by the next attempt.
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

/** Makes renames inside a folder survive a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Null when the machine was never made. */
export const readMachine = (paths: MachinePaths) => readJson<MachineFile>(paths.machine_file, ['id', 'disk', 'image'])

/** Null when no start is under way, and none was cut short. */
export const readStart = (paths: MachinePaths) => readJson<StartFile>(paths.start_file, ['run', 'disk', 'started_at'])

/** Null when the machine was never started. */
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
