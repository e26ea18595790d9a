/**
 * One control plane per data directory.
 *
 * The lock is the kernel's (flock): it is held by an open file and ends with our process, however that ends, so there
 * is no stale lock and nothing to take over. Node cannot call flock, but the lock belongs to the open file and not to
 * the process that asked for it: `flock 3` on an inherited descriptor leaves it with us. The content of the file only
 * tells others who holds it.
 */
import { spawnSync } from 'node:child_process'
import { ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import { identify, isAlive, type ProcessIdentity } from '../lib/processes.ts'

const NAME = 'lock'

/** Who holds a data directory, and where it answers once that is known. */
export type Holder = ProcessIdentity & { url: string | null }

/** Takes the directory for the rest of this process's life; throws a StartupError that names the one who has it. */
export function lockDataDir(folder: string): { announce(url: string): void } {
  const file = openSync(join(folder, NAME), 'a+', 0o600)
  const { status, error } = spawnSync('flock', ['--nonblock', '3'], { stdio: ['ignore', 'ignore', 'ignore', file] })
  if (error) throw new StartupError('There is no flock on this host: install util-linux.')
  if (status !== 0) {
    const holder = readHolder(folder)
    const who = holder ? ` (process ${holder.pid}${holder.url ? `, ${holder.url}` : ''})` : ''
    throw new StartupError(`CloudNexus already runs on ${folder}${who}. Stop it first, or give another --data-dir.`)
  }
  const write = (url: string | null) => {
    ftruncateSync(file, 0)
    writeSync(file, `${JSON.stringify({ ...identify(process.pid), url })}\n`)
  }
  write(null)
  return { announce: write }
}

/** The live control plane of a data directory, or null. */
export function readHolder(folder: string): Holder | null {
  try {
    const holder = JSON.parse(readFileSync(join(folder, NAME), 'utf8')) as Holder
    return isAlive(holder) ? holder : null
  } catch {
    return null
  }
}
