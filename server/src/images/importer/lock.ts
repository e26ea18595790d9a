/**
 * Locks a job directory for one importer. The lock is an abstract Unix socket, which the kernel releases when its process
 * ends, so that a lock cannot be stale. Its name cannot be guessed without the content of the job.
 */
import { createHash } from 'node:crypto'
import { readFileSync, realpathSync } from 'node:fs'
import { createServer } from 'node:net'
import { jobPaths } from './job-files.ts'

/** Locks the job until this process ends; returns false if another importer holds the lock. */
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
