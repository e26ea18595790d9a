import { chmod, chown, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { isId } from '../../lib/id.ts'
import { InvalidSpecError, type MachineSpec } from '../driver.ts'
import { checkImage } from './command.ts'
import {
  CHECK_EXIT_DAMAGED,
  checkCommand,
  checkFreeSpace,
  checkImageFile,
  createOverlay,
  growCommand,
  virtualSize,
} from './disk.ts'
import type { Host } from './host.ts'
import { confine } from './launch.ts'
import {
  instancesFolder,
  type MachineFile,
  machinePaths,
  readMachine,
  scratchName,
  syncFolder,
  writeJson,
} from './machine-files.ts'
import { checkNetwork } from './network/user.ts'
import { runProgram } from './run-program.ts'
import { writeSeed } from './seed.ts'
import { MACHINE_NUMBERS } from './users.ts'
import { confinementOf, viewOf } from './view.ts'

/**
 * Creates disk and seed in a folder with a scratch name and renames it, so that a machine exists completely or not at all.
 * `before` is the machine that a rebuild replaces and whose disk is discarded.
 */
export async function buildMachine(host: Host, spec: MachineSpec, before: MachineFile | null): Promise<void> {
  checkImage(spec.image)
  checkNetwork(spec.network)
  const base = join(host.images_dir, spec.image.folder, 'disk.qcow2')
  await checkImageFile(base)
  await checkFreeSpace(instancesFolder(host))
  if (spec.disk_bytes < (await virtualSize(base)))
    throw new InvalidSpecError('disk_too_small', 'The disk is smaller than the image.', `disk_bytes ${spec.disk_bytes}`)
  const { directory } = machinePaths(host, spec.id)
  const scratch = scratchName(directory, 'new')
  try {
    const { id, environment_id, disk, vcpus, memory_bytes, disk_bytes, image } = spec
    const uid_number = before?.uid_number ?? (await freeNumber(host))
    const machine: MachineFile = { id, environment_id, disk, vcpus, memory_bytes, disk_bytes, image, uid_number }
    await fill(host, spec, machine, base, scratch)
    if (before) await rename(directory, scratchName(directory, 'old'))
    await rename(scratch, directory)
    await syncFolder(instancesFolder(host))
  } finally {
    await removeLeftovers(host, spec.id)
  }
}

async function fill(host: Host, spec: MachineSpec, machine: MachineFile, base: string, scratch: string) {
  const paths = machinePaths(host, spec.id, scratch)
  await mkdir(scratch, { mode: 0o710 })
  await createOverlay(paths.disk, base, spec.disk_bytes)
  await chmod(paths.disk, 0o600)
  for (const file of [paths.console, paths.ready, paths.pid_file])
    await writeFile(file, '', { mode: 0o600, flag: 'wx' })
  const seed = await writeSeed(spec, scratch)
  if (host.service_uid !== null) {
    const uid = host.service_uid + machine.uid_number
    for (const path of [paths.disk, paths.pid_file, ...seed]) await chown(path, uid, uid)
    await chown(scratch, 0, uid)
  }
  await writeJson(paths.machine_file, machine)
}

/** The lowest user number that no machine of this data folder has. */
async function freeNumber(host: Host): Promise<number> {
  const ids = (await readdir(instancesFolder(host))).filter((name) => isId('inst', name))
  const machines = await Promise.all(ids.map((id) => readMachine(machinePaths(host, id))))
  const used = new Set(machines.map((machine) => machine?.uid_number))
  for (let number = 0; number < MACHINE_NUMBERS; number++) if (!used.has(number)) return number
  throw new Error('no user ID is free')
}

async function removeLeftovers(host: Host, id: string): Promise<void> {
  const prefix = basename(machinePaths(host, id).directory)
  const left = (await readdir(instancesFolder(host))).filter((name) => name.startsWith(`${prefix}.`))
  for (const name of left) await rm(join(instancesFolder(host), name), { recursive: true, force: true })
}

/** Grows the disk of a machine that is not running; no effect if it is large enough. */
export async function growDisk(host: Host, machine: MachineFile, bytes: number): Promise<void> {
  if (bytes <= machine.disk_bytes) return
  const paths = machinePaths(host, machine.id)
  const view = await viewOf(host, machine)
  await view.prepare()
  await runProgram(confine(growCommand(view.paths.disk, bytes), confinementOf(host, machine, view)))
  await writeJson(paths.machine_file, { ...machine, disk_bytes: bytes })
}

/** Timeout of a disk check. */
const CHECK_MS = 20_000

/** The damage of a disk that is not in use; null if none was found in time. */
export async function findDamage(host: Host, machine: MachineFile): Promise<string | null> {
  const view = await viewOf(host, machine)
  await view.prepare()
  const command = checkCommand(view.paths.disk)
  try {
    await runProgram(confine(command, confinementOf(host, machine, view)), CHECK_MS)
    return null
  } catch (error) {
    const output = String(error)
    if (((error as Error).cause as { code?: unknown }).code === CHECK_EXIT_DAMAGED) return output
    host.log.warn({ instance: machine.id, error: output }, 'disk check after a host reboot failed')
    return null
  }
}
