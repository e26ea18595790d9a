import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { isId } from '../../lib/id.ts'
import { instancesFolder, machinePaths } from './machine-files.ts'
import { findMachineProcesses, killProcess } from './process.ts'

const KILL_MS = 5000

/**
 * Ends every virtual machine of a data directory, by what the kernel shows: no database, no readable file is needed.
 * Call it when no control plane runs on the directory. Gives the ids of those that ran; throws when one outlives it.
 */
export async function endAllMachines(data_dir: string, run_dir: string): Promise<string[]> {
  const ended: string[] = []
  // The proof of the accelerator is a data directory within the data directory.
  for (const root of [data_dir, join(data_dir, PROOF_FOLDER)]) {
    for (const { folder, process } of await findMachineProcesses(instancesFolder({ data_dir: root }))) {
      if (!(await killProcess(process, KILL_MS, systemClock))) throw new Error(`process ${process.pid} does not end`)
      ended.push(folder.slice(folder.lastIndexOf('/') + 1))
    }
  }
  for (const name of await readdir(run_dir).catch(() => []))
    if (isId('inst', name))
      await rm(machinePaths({ data_dir, run_dir }, name).sockets, { recursive: true, force: true })
  return ended
}

/** Folder of the data directory in which the accelerator is proven. */
export const PROOF_FOLDER = 'proof'
