/** The files of one import. The control plane writes the job and reads the status; the importer does the rest. */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Value } from 'typebox/value'
import { writeAtomically } from './files.ts'
import { type Job, parseJob } from './job.ts'
import { type Status, statusSchema } from './status.ts'

/** Where everything of one import is. */
export function jobPaths(jobDir: string) {
  const at = (name: string) => join(jobDir, name)
  return {
    job: at('job.json'),
    status: at('status.json'),
    /** What has arrived so far, and by which validators it may be resumed. */
    part: at('download.part'),
    meta: at('download.meta.json'),
    /** The whole source, its checksum verified. */
    source: at('source.img'),
    /** The publisher's list, signature and keyring while they are checked. */
    publisher: at('publisher'),
    output: at('output'),
    disk: at('output/disk.qcow2'),
    manifest: at('output/manifest.json'),
  }
}

/** Makes the job directory (mode 0700) with its input. Throws TypeError when the job is not valid. */
export function writeJob(jobDir: string, job: Job): void {
  const text = JSON.stringify(parseJob(job), null, 2)
  mkdirSync(jobDir, { recursive: true, mode: 0o700 })
  writeAtomically(jobPaths(jobDir).job, text, { durable: true })
}

/** The job of a directory. Throws when it is missing or not valid. */
export function readJob(jobDir: string): Job {
  return parseJob(JSON.parse(readFileSync(jobPaths(jobDir).job, 'utf8')))
}

/** How far the import is; null until the importer has said anything that can be read. */
export function readStatus(jobDir: string): Status | null {
  try {
    const status: unknown = JSON.parse(readFileSync(jobPaths(jobDir).status, 'utf8'))
    return Value.Check(statusSchema, status) ? status : null
  } catch {
    return null
  }
}
