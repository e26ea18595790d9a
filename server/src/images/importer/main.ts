/**
 * The importer: `node main.ts JOB_DIR`, a separate process that imports one image (see job.ts, status.ts). It outlives the
 * control plane, may be killed at any time and resumes when it is started again. The result is in `status.json`. Exit
 * code 0: nothing is left to do; 1: no job; 143: stopped by a signal.
 */
import { killChildren } from './children.ts'
import { runImport } from './import.ts'
import { lockJob } from './lock.ts'

process.stdout.on('error', () => {}) // the reader of the output may have exited
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
