/**
 * The importer: `node main.ts JOB_DIR`, a process of its own that brings one image onto this host (see job.ts, status.ts).
 * It outlives the control plane, may be killed at any moment, and goes on where it was when it is started again. The
 * outcome is in status.json, so exit code 0 means only that there is nothing left to do; 1: no job; 143: told to stop.
 */
import { killChildren } from './children.ts'
import { runImport } from './import.ts'
import { lockJob } from './lock.ts'

process.stdout.on('error', () => {}) // whoever read our output may be gone
process.stderr.on('error', () => {})
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
  process.on(signal, () => {
    killChildren()
    process.exit(143)
  })
}

const [jobDir, ...rest] = process.argv.slice(2)
if (jobDir === undefined || rest.length > 0) {
  process.stderr.write('usage: node main.ts JOB_DIR\n')
  process.exit(1)
}
try {
  if (await lockJob(jobDir)) await runImport(jobDir, (line) => process.stderr.write(line))
} catch (error) {
  process.stderr.write(`${JSON.stringify({ level: 'error', msg: String(error) })}\n`)
  process.exit(1)
}
process.exit(0)
