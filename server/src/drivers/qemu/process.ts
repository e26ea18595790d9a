/**
 * The processes of machines. If no identity was recorded (the control plane was killed right after a start), the command
 * line identifies a process: `-name` contains the absolute folder of the machine.
 */
import { readdir, readFile } from 'node:fs/promises'
import type { Clock } from '../../lib/clock.ts'
import { identify, isAlive, meansGone, type ProcessIdentity } from '../../lib/processes.ts'

/** Poll interval for the end of a process. */
const POLL_MS = 5

/** Waits until the process has ended; false after a timeout. */
export async function waitForEnd(process: ProcessIdentity, milliseconds: number, clock: Clock): Promise<boolean> {
  const deadline = clock.monotonic() + milliseconds
  while (isAlive(process)) {
    if (clock.monotonic() > deadline) return false
    await clock.sleep(POLL_MS)
  }
  return true
}

/** Kills exactly this process, never another one that reuses its ID; false if it has not ended after a timeout. */
export async function killProcess(identity: ProcessIdentity, milliseconds: number, clock: Clock): Promise<boolean> {
  if (!isAlive(identity)) return true
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
  const pid = Number((await readIfThere(pidFile)).trim())
  const found = identify(pid)
  return found && folderOf(await commandLineOf(pid)) === folder ? found : null
}

/** All live processes of machines whose folders are directly below `instances`. */
export async function findMachineProcesses(instances: string): Promise<{ folder: string; process: ProcessIdentity }[]> {
  const found: { folder: string; process: ProcessIdentity }[] = []
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const folder = folderOf(await commandLineOf(Number(entry)))
    if (!folder?.startsWith(`${instances}/`)) continue
    const process = identify(Number(entry))
    if (process) found.push({ folder, process })
  }
  return found
}

async function commandLineOf(pid: number): Promise<string[]> {
  return (await readIfThere(`/proc/${pid}/cmdline`)).split('\0')
}

/** Empty if the file does not exist, or its process has ended; any other error says nothing and is thrown. */
function readIfThere(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((error: unknown) => {
    if (meansGone(error)) return ''
    throw error
  })
}
