/**
 * The folder for Unix sockets, whose paths must be short: below /run for root, otherwise in the user's runtime folder or
 * the temporary folder. Its path is stored in the data directory, because running machines keep their sockets there, even
 * if the next start has another environment.
 */
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { userRuntimeFolder } from '../config.ts'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull, writePrivateFile } from '../lib/files.ts'
import { readHolder } from './lock.ts'

const PREFIX = 'cloudnexus-'
const CLAIM = 'installation.json'
const PATH_FILE = 'run-dir'

/** Opens or creates the folder, closed to other users. As root they can traverse it, because machines have their own users. */
export function openRunDir(installation: { id: string; loopback_block: string }, dataDir: string): string {
  const stored = storedRunDir(dataDir)
  const folder = stored && existsSync(stored) ? stored : join(parentFolder(), `${PREFIX}${installation.id}`)
  const uid = process.getuid!()
  const mode = uid === 0 ? 0o711 : 0o700
  try {
    mkdirSync(folder, { mode })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') throw new StartupError(`Cannot create the folder ${folder} for sockets (${code}).`)
  }
  const found = lstatSync(folder)
  if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o022) !== 0) {
    throw new StartupError(`${folder} is not a folder that only this user can write to. Remove it and start again.`)
  }
  rejectCopy(folder, dataDir)
  chmodSync(folder, mode)
  const { id, loopback_block } = installation
  writePrivateFile(join(folder, CLAIM), `${JSON.stringify({ id, loopback_block, data_dir: dataDir })}\n`)
  if (stored !== folder) writePrivateFile(join(dataDir, PATH_FILE), `${folder}\n`)
  return folder
}

/** A copy of a data directory has the same ID, and with it the sockets of the machines that the original runs. */
function rejectCopy(folder: string, dataDir: string): void {
  const original = readClaim(folder)?.data_dir
  const holder = original && original !== dataDir ? readHolder(original) : null
  if (holder === null) return
  throw new StartupError(
    `${dataDir} is a copy of ${original}, whose control plane runs (process ${holder.pid}). Stop it first, or set another --data-dir.`,
  )
}

/** The run folder of the last start, which may no longer exist; null before the first start. */
export function storedRunDir(dataDir: string): string | null {
  return readFileOrNull(join(dataDir, PATH_FILE))?.trim() ?? null
}

/** True if the folder is the run folder of this installation and can be removed. */
export function isRunDirOf(folder: string, id: string): boolean {
  const claim = readClaim(folder)
  return claim?.id === id && !lstatSync(folder).isSymbolicLink()
}

/** The loopback blocks of the installations on this host whose run folders this user can read. */
export function claimedBlocks(): string[] {
  const parent = parentFolder()
  return readdirSync(parent)
    .filter((name) => name.startsWith(PREFIX))
    .flatMap((name) => readClaim(join(parent, name))?.loopback_block ?? [])
}

type Claim = { id?: string; loopback_block?: string; data_dir?: string }

function readClaim(folder: string): Claim | null {
  try {
    return JSON.parse(readFileOrNull(join(folder, CLAIM)) ?? '{}') as Claim
  } catch {
    return null
  }
}

function parentFolder(): string {
  if (process.getuid!() === 0) return '/run'
  const runtime = userRuntimeFolder()
  return runtime && existsSync(runtime) ? runtime : tmpdir()
}
