/**
 * The identity of processes. The kernel reuses process IDs, so a process is identified by its ID, its start time and the
 * boot ID of the host. A zombie counts as ended: it holds no disk, no socket and no memory, and an orphan can remain one
 * for seconds. If no identity was recorded (the control plane was killed right after a start), the command line
 * identifies the process: `-name` contains the absolute folder of the machine.
 */
import { readdir, readFile } from 'node:fs/promises'
import type { Clock } from '../../lib/clock.ts'

export type ProcessIdentity = { pid: number; start_time: number; boot_id: string }

/** Poll interval for the end of a process. */
const POLL_MS = 5

const absent = () => null

/** The boot ID of the host. */
export async function hostBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
}

/** The state letter and start time (clock ticks since boot) in `/proc/<pid>/stat`. The command name may be any text. */
export function parseStat(text: string): { state: string; start_time: number } | null {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, start_time] = [fields[0], Number(fields[19])]
  return state && /^[A-Za-z]$/.test(state) && Number.isSafeInteger(start_time) ? { state, start_time } : null
}

/** The identity of the live process with this ID; null if there is none. */
export async function identify(pid: number): Promise<ProcessIdentity | null> {
  if (!Number.isSafeInteger(pid) || pid <= 1) return null
  const stat = parseStat(await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ''))
  if (!stat || stat.state === 'Z' || stat.state === 'X') return null
  return { pid, start_time: stat.start_time, boot_id: await hostBootId() }
}

/** Whether exactly this process is alive. */
export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  const found = await identify(process.pid)
  return found !== null && found.start_time === process.start_time && found.boot_id === process.boot_id
}

/** Waits until the process has ended; false after a timeout. */
export async function waitForEnd(process: ProcessIdentity, milliseconds: number, clock: Clock): Promise<boolean> {
  const deadline = clock.monotonic() + milliseconds
  while (await isAlive(process)) {
    if (clock.monotonic() > deadline) return false
    await clock.sleep(POLL_MS)
  }
  return true
}

/** Kills exactly this process, never another one that reuses its ID; false if it has not ended after a timeout. */
export async function killProcess(identity: ProcessIdentity, milliseconds: number, clock: Clock): Promise<boolean> {
  if (!(await isAlive(identity))) return true
  try {
    process.kill(identity.pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
  return waitForEnd(identity, milliseconds, clock)
}

/** The machine folder in a command line (`-name guest=<folder>`, commas doubled), or null. */
export function folderOf(commandLine: string[]): string | null {
  const name = commandLine[commandLine.indexOf('-name') + 1]
  return commandLine.includes('-name') && name?.startsWith('guest=/') ? name.slice(6).replaceAll(',,', ',') : null
}

/** The process of the machine in this folder by its PID file, verified by its command line. */
export async function findByPidFile(pidFile: string, folder: string): Promise<ProcessIdentity | null> {
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).trim())
  const found = await identify(pid)
  return found && folderOf(await commandLineOf(pid)) === folder ? found : null
}

/** All live processes of machines whose folders are directly below `instances`. */
export async function findMachineProcesses(instances: string): Promise<{ folder: string; process: ProcessIdentity }[]> {
  const found: { folder: string; process: ProcessIdentity }[] = []
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const folder = folderOf(await commandLineOf(Number(entry)))
    if (!folder?.startsWith(`${instances}/`)) continue
    const process = await identify(Number(entry))
    if (process) found.push({ folder, process })
  }
  return found
}

async function commandLineOf(pid: number): Promise<string[]> {
  return ((await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(absent)) ?? '').split('\0')
}
