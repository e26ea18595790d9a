import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { killLeftovers } from '../images/importer/children.ts'
import { runningImporter } from '../images/process.ts'
import { signal } from '../lib/processes.ts'

/** Kills the running image importers of a data directory and the processes that they started. */
export async function endImporters(dataDir: string): Promise<void> {
  const folder = join(dataDir, 'imports')
  if (!existsSync(folder)) return
  for (const name of readdirSync(folder)) {
    const job = join(folder, name)
    const importer = runningImporter(job)
    if (importer) signal(importer, 'SIGKILL')
    await killLeftovers(job)
  }
}
