/**
 * Who is this process, really? A process id alone is reused, so a process is its id, its start time and the boot it
 * belongs to; all three come from the kernel. A zombie counts as dead: it holds no disk, no socket and no memory,
 * and an orphan can stay one for seconds. Where no identity was written down (the control plane was killed right after
 * a start), the command line tells: each QEMU is named after the absolute folder of its machine.
 */
import { readdir, readFile } from 'node:fs/promises'
import type { Clock } from '../../lib/clock.ts'

export type ProcessIdentity = { pid: number; start_time: number; boot_id: string }

/** How often a dying process is looked at. */
const POLL_MS = 5

const absent = () => null

/** Identity of this boot of the host. */
export async function hostBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
}

/** State letter and start time (clock ticks since boot) out of `/proc/<pid>/stat`; the command's name may hold anything. */
export function parseStat(text: string): { state: string; start_time: number } | null {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, start_time] = [fields[0], Number(fields[19])]
  return state && /^[A-Za-z]$/.test(state) && Number.isSafeInteger(start_time) ? { state, start_time } : null
}

/** The identity of a live process, null when there is none with this id. */
export async function identify(pid: number): Promise<ProcessIdentity | null> {
  if (!Number.isSafeInteger(pid) || pid <= 1) return null
  const stat = parseStat(await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ''))
  if (!stat || stat.state === 'Z' || stat.state === 'X') return null
  return { pid, start_time: stat.start_time, boot_id: await hostBootId() }
}

/** True while exactly this process lives. */
export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  const found = await identify(process.pid)
  return found !== null && found.start_time === process.start_time && found.boot_id === process.boot_id
}

/** Waits until the process is gone; false when it outlives the deadline. */
export async function waitForEnd(process: ProcessIdentity, milliseconds: number, clock: Clock): Promise<boolean> {
  const deadline = clock.monotonic() + milliseconds
  while (await isAlive(process)) {
    if (clock.monotonic() > deadline) return false
    await clock.sleep(POLL_MS)
  }
  return true
}

/** Ends exactly this process, never another one that got its number; false when it outlives the deadline. */
export async function killProcess(identity: ProcessIdentity, milliseconds: number, clock: Clock): Promise<boolean> {
  if (!(await isAlive(identity))) return true
  try {
    process.kill(identity.pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
  return waitForEnd(identity, milliseconds, clock)
}

/** The machine folder that a command line names (`-name guest=<folder>`, commas doubled), or null. */
export function folderOf(commandLine: string[]): string | null {
  const name = commandLine[commandLine.indexOf('-name') + 1]
  return commandLine.includes('-name') && name?.startsWith('guest=/') ? name.slice(6).replaceAll(',,', ',') : null
}

/** The process of the machine in this folder according to its pid file, checked against the command line. */
export async function findByPidFile(pidFile: string, folder: string): Promise<ProcessIdentity | null> {
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).trim())
  const found = await identify(pid)
  return found && folderOf(await commandLineOf(pid)) === folder ? found : null
}

/** Every live process that was started for a machine in a folder directly below `instances`, by folder. */
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
