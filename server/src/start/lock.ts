/**
 * Ensures that one control plane at most runs on a data directory.
 *
 * It holds a flock on an open file. The kernel releases the lock when the process ends, so a stale lock cannot exist. Node
 * has no flock, but the lock belongs to the open file description: `flock 3` locks an inherited descriptor, and this
 * process keeps the lock. The content of the file only identifies the process that holds the lock.
 */
import { spawnSync } from 'node:child_process'
import { ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import { identify, isAlive, type ProcessIdentity, whileAlive } from '../lib/processes.ts'

const NAME = 'lock'

/** The process that holds a data directory, and the URL of its API once known. */
export type Holder = ProcessIdentity & { url: string | null }

/** Locks the directory until this process ends; throws a StartupError that names the process that holds the lock. */
export function lockDataDir(folder: string): { announce(url: string): void } {
  const file = openLock(join(folder, NAME))
  const { status, error } = spawnSync('flock', ['--nonblock', '3'], { stdio: ['ignore', 'ignore', 'ignore', file] })
  if (error) throw new StartupError('The program flock is missing on this host: install util-linux.')
  if (status !== 0) {
    const holder = readHolder(folder)
    const holderText = holder ? ` (process ${holder.pid}${holder.url ? `, ${holder.url}` : ''})` : ''
    throw new StartupError(
      `CloudNexus already runs on ${folder}${holderText}. Stop it first, or set another --data-dir.`,
    )
  }
  const write = (url: string | null) => {
    ftruncateSync(file, 0)
    writeSync(file, `${JSON.stringify({ ...identify(process.pid), url })}\n`)
  }
  write(null)
  return { announce: write }
}

function openLock(file: string): number {
  try {
    return openSync(file, 'a+', 0o600)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StartupError(
      `Cannot open ${file} (${code}). Make it a regular file that this user can write, or remove it.`,
    )
  }
}

/** The running control plane of a data directory, or null. */
export function readHolder(folder: string): Holder | null {
  const text = whileAlive(() => readFileSync(join(folder, NAME), 'utf8'))
  const holder = text === null ? null : parse(text)
  return holder && isAlive(holder) ? holder : null
}

/** Null for a file without content: a process was killed between locking and writing. */
function parse(text: string): Holder | null {
  try {
    return JSON.parse(text) as Holder
  } catch {
    return null
  }
}
