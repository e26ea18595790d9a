/**
 * The folder for unix sockets, whose paths must be short: below /run for root, else in the user's runtime folder or the
 * temporary one. The data directory remembers it: machines that live on keep their sockets there, even when the next
 * start has another environment.
 */
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { userRuntimeFolder } from '../config.ts'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull, writePrivateFile } from './files.ts'

const PREFIX = 'cloudnexus-'
const CLAIM = 'installation.json'
const NOTE = 'run-dir'

/** Finds or makes the folder, closed to others: as root they may pass through, because machines have users of their own. */
export function openRunDir(installation: { id: string; loopback_block: string }, dataDir: string): string {
  const noted = notedRunDir(dataDir)
  const folder = noted && existsSync(noted) ? noted : join(parentFolder(), `${PREFIX}${installation.id}`)
  const uid = process.getuid!()
  const mode = uid === 0 ? 0o711 : 0o700
  try {
    mkdirSync(folder, { mode })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') throw new StartupError(`The folder ${folder} for sockets cannot be made (${code}).`)
  }
  const found = lstatSync(folder)
  if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o022) !== 0) {
    throw new StartupError(`${folder} is not a folder that only this user can write to. Remove it and start again.`)
  }
  chmodSync(folder, mode)
  const { id, loopback_block } = installation
  writePrivateFile(join(folder, CLAIM), `${JSON.stringify({ id, loopback_block, data_dir: dataDir })}\n`)
  if (noted !== folder) writePrivateFile(join(dataDir, NOTE), `${folder}\n`)
  return folder
}

/** The run folder that this data directory used last, whether it exists or not; null before the first start. */
export function notedRunDir(dataDir: string): string | null {
  return readFileOrNull(join(dataDir, NOTE))?.trim() ?? null
}

/** True when the folder is the run folder of this installation, so that it may be removed. */
export function isRunDirOf(folder: string, id: string): boolean {
  const claim = readClaim(folder)
  return claim?.id === id && !lstatSync(folder).isSymbolicLink()
}

/** The loopback blocks of the installations on this host whose run folder we may read. */
export function claimedBlocks(): string[] {
  const parent = parentFolder()
  return readdirSync(parent)
    .filter((name) => name.startsWith(PREFIX))
    .flatMap((name) => readClaim(join(parent, name))?.loopback_block ?? [])
}

function readClaim(folder: string): { id?: string; loopback_block?: string } | null {
  try {
    return JSON.parse(readFileSync(join(folder, CLAIM), 'utf8')) as { id?: string; loopback_block?: string }
  } catch {
    return null
  }
}

function parentFolder(): string {
  if (process.getuid!() === 0) return '/run'
  const runtime = userRuntimeFolder()
  return runtime && existsSync(runtime) ? runtime : tmpdir()
}
