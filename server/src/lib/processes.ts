import { readFileSync } from 'node:fs'

/** A process as the host knows it. A pid alone is reused; with its start time and the host's boot id it is unique. */
export type ProcessIdentity = { pid: number; start_time: string; boot_id: string }

/** Identifies this boot of the host. */
function hostBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

/** The identity of a live process; null when there is none, or only its zombie. */
export function identify(pid: number): ProcessIdentity | null {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return null
  }
  // The command name is in parentheses and may hold anything; fields are counted after the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state] = fields
  if (state === 'Z' || state === 'X') return null
  return { pid, start_time: fields[19]!, boot_id: hostBootId() }
}

/** True while the very process that was noted lives. */
export function isAlive(noted: ProcessIdentity): boolean {
  const seen = identify(noted.pid)
  return seen !== null && seen.start_time === noted.start_time && seen.boot_id === noted.boot_id
}

/** The arguments of a live process; empty when it is gone or not ours to see. */
export function commandLine(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
  } catch {
    return []
  }
}

/** Sends a signal to the noted process and to no other; absent is fine. */
export function signal(noted: ProcessIdentity, name: NodeJS.Signals): void {
  if (!isAlive(noted)) return
  try {
    process.kill(noted.pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
