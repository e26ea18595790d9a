/** The files of an import. The control plane writes the job and the grant, and reads the status; the importer writes all others. */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Value } from 'typebox/value'
import { writeAtomically } from './files.ts'
import { type Job, parseJob } from './job.ts'
import { type Status, statusSchema } from './status.ts'

/** The paths of the files of an import. */
export function jobPaths(jobDir: string) {
  const at = (name: string) => join(jobDir, name)
  return {
    job: at('job.json'),
    status: at('status.json'),
    /** How many bytes the import may occupy. */
    grant: at('grant.json'),
    /** The partial download, and the validators with which it can be resumed. */
    part: at('download.part'),
    meta: at('download.meta.json'),
    /** The complete source, after its checksum was verified. */
    source: at('source.img'),
    /** The publisher's list, signature and keyring while the signature is verified. */
    publisher: at('publisher'),
    output: at('output'),
    disk: at('output/disk.qcow2'),
    manifest: at('output/manifest.json'),
  }
}

/** Creates the job directory (mode 0700) with its job. Throws TypeError if the job is invalid. */
export function writeJob(jobDir: string, job: Job): void {
  const text = JSON.stringify(parseJob(job), null, 2)
  mkdirSync(jobDir, { recursive: true, mode: 0o700 })
  writeAtomically(jobPaths(jobDir).job, text, { durable: true })
}

/** Reads the job of a directory. Throws if it is missing or invalid. */
export function readJob(jobDir: string): Job {
  return parseJob(JSON.parse(readFileSync(jobPaths(jobDir).job, 'utf8')))
}

/** Reads the status of an import; null if the importer has not written a valid one. */
export function readStatus(jobDir: string): Status | null {
  try {
    const status: unknown = JSON.parse(readFileSync(jobPaths(jobDir).status, 'utf8'))
    return Value.Check(statusSchema, status) ? status : null
  } catch {
    return null
  }
}
