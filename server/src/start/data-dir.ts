import { accessSync, constants, mkdirSync, readdirSync, realpathSync, statfsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import { INSTALLATION_FILE } from './installation.ts'

const GIB = 2 ** 30
const FIRST_START_BYTES = 2 * GIB
const LATER_START_BYTES = GIB / 4
/** Files allowed before the first start: configuration, prepared images, and remains of an interrupted start. */
const ALLOWED_BEFORE = /^(config\.json|images|lock|lost\+found|installation\.json\.new)$/

/**
 * Opens or creates the data directory. Rejects a folder with other files, because teardown removes the data directory.
 * @returns its real path, without symbolic links
 */
export function openDataDir(given: string): string {
  try {
    makeFolder(given)
    const folder = realpathSync(given)
    const entries = readdirSync(folder)
    checkAccess(folder, entries)
    if (!entries.includes(INSTALLATION_FILE) && entries.some((name) => !ALLOWED_BEFORE.test(name))) {
      throw new StartupError(
        `${folder} is not empty and is not a CloudNexus data directory. Set another one with --data-dir.`,
      )
    }
    return folder
  } catch (error) {
    if (error instanceof StartupError) throw error
    const reason = (error as NodeJS.ErrnoException).code
    throw new StartupError(`Cannot use the data directory ${given} (${reason}). Set another one with --data-dir.`)
  }
}

/** A data directory stays with the user that created it: PostgreSQL rejects files of another one. */
function checkAccess(folder: string, entries: string[]): void {
  const user = process.getuid!()
  const uid = entries.includes(INSTALLATION_FILE) ? statSync(join(folder, INSTALLATION_FILE)).uid : user
  if (uid !== user) {
    throw new StartupError(
      `${folder} belongs to the user with the ID ${uid}, and this is the user ${user}. Start as that user, or set another --data-dir.`,
    )
  }
  try {
    accessSync(folder, constants.W_OK | constants.X_OK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === 'EROFS' ? 'is on a read-only file system' : `is not writable for the user ${user}`
    throw new StartupError(`${folder} ${why}. Set another --data-dir.`)
  }
}

/** Creates a folder and its parents. Node's own `recursive` never returns for paths below /proc, which give ENOENT. */
function makeFolder(folder: string): void {
  // The users that machines run as must be able to traverse folders that root has created.
  const mode = process.getuid?.() === 0 ? 0o711 : 0o700
  try {
    mkdirSync(folder, { mode })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || dirname(folder) === folder) throw error
    makeFolder(dirname(folder))
    mkdirSync(folder, { mode })
  }
}

/** Throws a StartupError if the disk has too little free space. */
export function checkDiskSpace(folder: string): void {
  const first = !readdirSync(folder).includes(INSTALLATION_FILE)
  const needed = first ? FIRST_START_BYTES : LATER_START_BYTES
  const free = freeBytes(folder)
  if (free >= needed) return
  const mib = (bytes: number) => `${Math.floor(bytes / 2 ** 20)} MiB`
  throw new StartupError(
    `Not enough disk space: ${join(folder, '/')} has ${mib(free)} free, ${first ? 'a first start' : 'a start'} requires ${mib(needed)}. Free some space, or set another --data-dir.`,
  )
}

/** Bytes that this user can still write on the file system of the folder. */
export function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}
