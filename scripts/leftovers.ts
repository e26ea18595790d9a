import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { identify, isAlive, type ProcessIdentity, signal } from '../server/src/lib/processes.ts'

type Leftover = ProcessIdentity & { command: string }

/** Live processes, other than `except`, whose command line or environment contains this path. */
export function processesOf(folder: string, except: number): Leftover[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== except)
    .flatMap((name) => {
      const command = read(`/proc/${name}/cmdline`).replaceAll('\0', ' ')
      if (!command.includes(folder) && !read(`/proc/${name}/environ`).includes(folder)) return []
      const identity = identify(Number(name))
      return identity ? [{ ...identity, command }] : []
    })
}

/** Kills exactly these processes and waits for their end, 5 s at most. */
export async function endProcesses(processes: Leftover[]): Promise<void> {
  for (const found of processes) signal(found, 'SIGKILL')
  for (let i = 0; i < 50 && processes.some(isAlive); i++) await sleep(100)
}

function read(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}
