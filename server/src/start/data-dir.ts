import { mkdirSync, readdirSync, realpathSync, statfsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import { INSTALLATION_FILE } from './installation.ts'

const GIB = 2 ** 30
const FIRST_START_BYTES = 2 * GIB
const LATER_START_BYTES = GIB / 4
/** What may be in a folder before our first start: configuration, prepared images, traces of a start that was cut short. */
const ALLOWED_BEFORE = /^(config\.json|images|lock|lost\+found|installation\.json\.new)$/

/**
 * Makes the data directory, or finds it; refuses one that is something else's, because teardown will remove it.
 * @returns its real path, without symbolic links
 */
export function openDataDir(given: string): string {
  try {
    makeFolder(given)
    const folder = realpathSync(given)
    const entries = readdirSync(folder)
    if (!entries.includes(INSTALLATION_FILE) && entries.some((name) => !ALLOWED_BEFORE.test(name))) {
      throw new StartupError(
        `${folder} is not empty and not a CloudNexus data directory. Give a new one by --data-dir.`,
      )
    }
    return folder
  } catch (error) {
    if (error instanceof StartupError) throw error
    const reason = (error as NodeJS.ErrnoException).code
    throw new StartupError(`The data directory ${given} cannot be used (${reason}). Give another one by --data-dir.`)
  }
}

/** With its parents. Node's own `recursive` never returns where the system says ENOENT for a name that cannot be, as /proc does. */
function makeFolder(folder: string): void {
  // Users of machines must be able to walk through what root has made.
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

/** Refuses a disk that is too full to start on. */
export function checkDiskSpace(folder: string): void {
  const first = !readdirSync(folder).includes(INSTALLATION_FILE)
  const needed = first ? FIRST_START_BYTES : LATER_START_BYTES
  const free = freeBytes(folder)
  if (free >= needed) return
  const mib = (bytes: number) => `${Math.floor(bytes / 2 ** 20)} MiB`
  throw new StartupError(
    `Too little disk: ${join(folder, '/')} has ${mib(free)} free, ${first ? 'a first start' : 'a start'} needs ${mib(needed)}. Make room, or give another --data-dir.`,
  )
}

/** Bytes that this user may still write where the folder is. */
export function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}
