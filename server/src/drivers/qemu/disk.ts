import { access, statfs } from 'node:fs/promises'
import { dirname, relative } from 'node:path'
import { CapacityError, NotFoundError } from '../driver.ts'
import { runProgram } from './run-program.ts'

/** Below this much free space no machine is made: guests that write would pause, and PostgreSQL is on the same disk. */
const RESERVE_BYTES = 512 * 1024 * 1024

/** Throws CapacityError when the file system of this folder is nearly full. */
export async function checkFreeSpace(folder: string): Promise<void> {
  const free = await freeBytes(folder)
  if (free >= RESERVE_BYTES) return
  throw new CapacityError('disk_full', 'The disk of the host is full.', `${free} bytes free at ${folder}`)
}

/** Whether the file system of this folder has as much room as a new machine would need. */
export const hasFreeSpace = async (folder: string): Promise<boolean> => (await freeBytes(folder)) >= RESERVE_BYTES

async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

/** Throws NotFoundError when the image is not there. */
export async function checkImageFile(base: string): Promise<void> {
  await access(base).catch((error) => {
    throw new NotFoundError('image_missing', 'The image is not on this host.', `no such file: ${base}`, {
      cause: error,
    })
  })
}

/**
 * A thin disk on top of a read-only base. The name of the base in its header is for people and `qemu-img info` (relative,
 * so it survives a move of the folders); we ourselves spell the chain out and never read it.
 */
export async function createOverlay(disk: string, base: string, bytes: number): Promise<void> {
  const backing = relative(dirname(disk), base)
  await runProgram(['qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, disk, `${bytes}`])
}

/** Size in bytes that a guest sees of a base image. */
export async function virtualSize(base: string): Promise<number> {
  const file = { driver: 'file', filename: base }
  const name = `json:${JSON.stringify({ driver: 'qcow2', file, backing: null })}`
  return JSON.parse(await runProgram(['qemu-img', 'info', '--force-share', '--output=json', name]))['virtual-size']
}

/** A disk alone, without what it stands on. */
const standalone = (disk: string) =>
  `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: disk }, backing: null })}`

/** The command that grows a disk. It opens a file that a guest's QEMU could write, so it runs confined as that QEMU. */
export const growCommand = (disk: string, bytes: number): string[] => [
  'qemu-img',
  'resize',
  '-q',
  standalone(disk),
  `${bytes}`,
]

/** The command that looks for damage and repairs nothing; to be confined like the one that grows. */
export const checkCommand = (disk: string): string[] => ['qemu-img', 'check', '-q', standalone(disk)]

/** `qemu-img check` ends with this code when data may be damaged; leaks alone, which lose nothing, have another. */
export const CHECK_EXIT_DAMAGED = 2
