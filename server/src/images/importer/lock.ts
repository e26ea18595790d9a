/**
 * One importer for one job directory. The lock is an abstract unix socket: the kernel gives it to one process and takes
 * it back however that process ends, so there is nothing stale to judge. Its name cannot be guessed without the job.
 */
import { createHash } from 'node:crypto'
import { readFileSync, realpathSync } from 'node:fs'
import { createServer } from 'node:net'
import { jobPaths } from './job-files.ts'

/** True when this process now holds the lock, until it ends; false when another importer does. */
export async function lockJob(jobDir: string): Promise<boolean> {
  const hash = createHash('sha256')
    .update(realpathSync(jobDir))
    .update(readFileSync(jobPaths(jobDir).job))
  const server = createServer((socket) => socket.destroy())
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false)
      else reject(error)
    })
    server.listen(`\0cloudnexus-import-${hash.digest('hex')}`, () => {
      server.unref()
      resolve(true)
    })
  })
}
