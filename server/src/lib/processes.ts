/**
 * Processes of the host. Only ENOENT and ESRCH mean that a process is gone. Any other error of /proc, such as too many open
 * files, means that nothing is known: it is thrown, so that no caller takes a running process for one that has ended.
 */
import { readdirSync, readFileSync } from 'node:fs'

/** Identifies a process. The kernel reuses process IDs; with start time and boot ID the identity is unique. */
export type ProcessIdentity = { pid: number; start_time: number; boot_id: string }

/** The boot ID of the host. */
export function hostBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

/** The state letter and start time (clock ticks since boot) in `/proc/<pid>/stat`; null if the text is malformed. */
export function parseStat(text: string): { state: string; start_time: number } | null {
  // The command name is in parentheses and may be any text; fields are counted after the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, start_time] = [fields[0], Number(fields[19])]
  return state && /^[A-Za-z]$/.test(state) && Number.isSafeInteger(start_time) ? { state, start_time } : null
}

/** The result of reading something of a process; null if it has ended. */
export function whileAlive<T>(read: () => T): T | null {
  try {
    return read()
  } catch (error) {
    if (meansGone(error)) return null
    throw error
  }
}

/** Whether an error of a file or process means that it does not exist. */
export function meansGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'ENOENT' || code === 'ESRCH'
}

/**
 * The identity of a live process; null if there is none. A zombie counts as ended, because it holds no resources. A zombie
 * whose threads are still alive does not: they hold its files and their locks.
 */
export function identify(pid: number): ProcessIdentity | null {
  const text = whileAlive(() => readFileSync(`/proc/${pid}/stat`, 'utf8'))
  if (text === null) return null
  const stat = parseStat(text)
  if (!stat || stat.state === 'X' || (stat.state === 'Z' && countThreads(pid) <= 1)) return null
  return { pid, start_time: stat.start_time, boot_id: hostBootId() }
}

function countThreads(pid: number): number {
  return whileAlive(() => readdirSync(`/proc/${pid}/task`).length) ?? 0
}

/** Whether exactly this process is alive. */
export function isAlive(identity: ProcessIdentity): boolean {
  const found = identify(identity.pid)
  // Earlier releases stored the start time in some files as a string.
  return found !== null && found.start_time === Number(identity.start_time) && found.boot_id === identity.boot_id
}

/** The arguments of a live process; empty if it has ended. */
export function commandLine(pid: number): string[] {
  return (whileAlive(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')) ?? '').split('\0').slice(0, -1)
}

/** Sends a signal to exactly this process; no effect if it has ended. */
export function signal(identity: ProcessIdentity, name: NodeJS.Signals): void {
  if (!isAlive(identity)) return
  try {
    process.kill(identity.pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
