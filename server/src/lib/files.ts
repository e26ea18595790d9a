/** The files of a data directory. */
import {
  closeSync,
  constants,
  type Dirent,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { StartupError } from './errors.ts'

const LIMIT_BYTES = 2 ** 20
/** Of `st_blocks`, whatever the file system's own block size. */
const BLOCK_BYTES = 512

/**
 * Writes a file atomically, readable only by its owner: after a crash it has the old or the new content. Throws a
 * StartupError if it cannot be written.
 */
export function writePrivateFile(file: string, content: string): void {
  try {
    write(file, content)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StartupError(
      `Cannot write ${file} (${code}). Make its folder writable for this user, or free some space.`,
    )
  }
}

function write(file: string, content: string): void {
  const temporary = `${file}.new`
  const handle = openSync(temporary, 'w', 0o600)
  writeFileSync(handle, content)
  fsyncSync(handle)
  closeSync(handle)
  renameSync(temporary, file)
  const folder = openSync(dirname(file), 'r')
  fsyncSync(folder)
  closeSync(folder)
}

/**
 * The content of a file, or null if it does not exist. Throws a StartupError if it cannot be read, or is not a regular file:
 * to read a pipe would wait forever.
 */
export function readFileOrNull(file: string): string | null {
  let handle: number
  try {
    handle = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    throw new StartupError(
      `Cannot read ${file} (${code}). Make it readable for this user, or restore it from a backup.`,
    )
  }
  try {
    const found = fstatSync(handle)
    if (!found.isFile()) throw new StartupError(`${file} is not a regular file. Restore it from a backup.`)
    if (found.size > LIMIT_BYTES)
      throw new StartupError(`${file} is damaged: it is too large. Restore it from a backup.`)
    return readFileSync(handle, 'utf8')
  } finally {
    closeSync(handle)
  }
}

/**
 * The bytes that the files of a folder occupy on disk; 0 if it does not exist. A file that vanishes meanwhile is left out.
 * @param levels of folders that are read
 */
export function usedBytes(folder: string, levels = Number.POSITIVE_INFINITY): number {
  let used = 0
  for (const entry of readdirIfThere(folder)) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) used += levels > 1 ? usedBytes(path, levels - 1) : 0
    else used += (lstatSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK_BYTES
  }
  return used
}

function readdirIfThere(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
