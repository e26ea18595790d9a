import { access, statfs } from 'node:fs/promises'
import { dirname, relative } from 'node:path'
import { CapacityError, NotFoundError } from '../driver.ts'
import { runProgram } from './run-program.ts'

/** Free space below which no machine is created, because running guests and PostgreSQL write to the same disk. */
const RESERVE_BYTES = 512 * 1024 * 1024
/** Free space below which guests are paused, so that PostgreSQL can write. They are resumed above RESERVE_BYTES. */
const PAUSE_BELOW_BYTES = 256 * 1024 * 1024

/** Throws CapacityError if the file system of this folder is nearly full. */
export async function checkFreeSpace(folder: string): Promise<void> {
  const free = await freeBytes(folder)
  if (free >= RESERVE_BYTES) return
  throw new CapacityError('disk_full', 'The disk of the host is full.', `${free} bytes free at ${folder}`)
}

/** Whether the file system of this folder has enough free space for a new machine. */
export const hasFreeSpace = async (folder: string): Promise<boolean> => (await freeBytes(folder)) >= RESERVE_BYTES

/** Whether guests must be paused, because the file system of this folder is nearly full. */
export const isNearlyFull = async (folder: string): Promise<boolean> => (await freeBytes(folder)) < PAUSE_BELOW_BYTES

async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

/** Throws NotFoundError if the image file does not exist. */
export async function checkImageFile(base: string): Promise<void> {
  await access(base).catch((error) => {
    throw new NotFoundError('image_missing', 'The image is not on this host.', `no such file: ${base}`, {
      cause: error,
    })
  })
}

/**
 * Creates a thin disk on a read-only base. The header names the base by a relative path, for `qemu-img info` only: the
 * driver always passes the chain explicitly.
 */
export async function createOverlay(disk: string, base: string, bytes: number): Promise<void> {
  const backing = relative(dirname(disk), base)
  await runProgram(['qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, disk, `${bytes}`])
}

/** The size of a base image in bytes, as a guest sees it. */
export async function virtualSize(base: string): Promise<number> {
  const file = { driver: 'file', filename: base }
  const name = `json:${JSON.stringify({ driver: 'qcow2', file, backing: null })}`
  return JSON.parse(await runProgram(['qemu-img', 'info', '--force-share', '--output=json', name]))['virtual-size']
}

/** A disk without its base. */
const standalone = (disk: string) =>
  `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: disk }, backing: null })}`

/** The command that grows a disk. It reads a file that QEMU could write, so it must run with the same confinement. */
export const growCommand = (disk: string, bytes: number): string[] => [
  'qemu-img',
  'resize',
  '-q',
  standalone(disk),
  `${bytes}`,
]

/** The command that checks a disk and repairs nothing; needs the same confinement. */
export const checkCommand = (disk: string): string[] => ['qemu-img', 'check', '-q', standalone(disk)]

/** Exit code of `qemu-img check` for damage. Leaked clusters, which lose no data, have another code. */
export const CHECK_EXIT_DAMAGED = 2
