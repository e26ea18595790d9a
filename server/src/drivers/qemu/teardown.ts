import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { isId } from '../../lib/id.ts'
import { instancesFolder, machinePaths } from './machine-files.ts'
import { findMachineProcesses, killProcess } from './process.ts'

const KILL_MS = 5000

/**
 * Ends all virtual machines of a data directory. Finds them by their processes and needs neither the database nor their
 * files. No control plane may run on the directory. Returns the IDs of the ended machines; throws if one survives.
 */
export async function endAllMachines(data_dir: string, run_dir: string): Promise<string[]> {
  const ended: string[] = []
  // The KVM test uses a data directory in the data directory.
  for (const root of [data_dir, join(data_dir, PROOF_FOLDER)]) {
    for (const { folder, process } of await findMachineProcesses(instancesFolder({ data_dir: root }))) {
      if (!(await killProcess(process, KILL_MS, systemClock))) throw new Error(`process ${process.pid} does not exit`)
      ended.push(folder.slice(folder.lastIndexOf('/') + 1))
    }
  }
  for (const name of await readdir(run_dir).catch(() => []))
    if (isId('inst', name))
      await rm(machinePaths({ data_dir, run_dir }, name).sockets, { recursive: true, force: true })
  return ended
}

/** Folder in the data directory that the KVM test uses. */
export const PROOF_FOLDER = 'proof'
