/** One import: downloads the source, converts it and records the result; resumes after an earlier run. */
import { createHash } from 'node:crypto'
import { existsSync, rmSync } from 'node:fs'
import { constants, open } from 'node:fs/promises'
import { killLeftovers } from './children.ts'
import { convertImage } from './convert.ts'
import { downloadVerified } from './download.ts'
import { asImportError, ImportError } from './errors.ts'
import { syncDirectory } from './files.ts'
import { createGrant, type Grant } from './grant.ts'
import type { Job, PublisherJob, UploadJob, UrlJob } from './job.ts'
import { jobPaths, readJob, readStatus } from './job-files.ts'
import { writeManifest } from './manifest.ts'
import { hashAll } from './part.ts'
import { publishedFile } from './publisher.ts'
import { buildImage } from './recipe.ts'
import { createReporter, type Reporter } from './reporter.ts'
import { size } from './text.ts'

/** Imports the image of a job to `output/`. Records the result in `status.json`; a failed import does not throw. */
export async function runImport(jobDir: string, writeLog: (line: string) => void): Promise<void> {
  const paths = jobPaths(jobDir)
  if (readStatus(jobDir)?.state === 'done') return
  const reporter = createReporter(jobDir, writeLog)
  try {
    await killLeftovers(jobDir)
    const job = readJob(jobDir)
    if (job.kind === 'recipe') await buildImage(jobDir, job, reporter)
    else await importDisk(jobDir, job, reporter)
    syncDirectory(jobDir)
    reporter.done()
    rmSync(paths.source, { force: true })
  } catch (error) {
    rmSync(paths.output, { recursive: true, force: true })
    reporter.failed(asImportError(error))
  }
}

async function importDisk(jobDir: string, job: Exclude<Job, { kind: 'recipe' }>, reporter: Reporter): Promise<void> {
  const grant = createGrant(jobDir, reporter)
  const sourcePath =
    job.kind === 'upload' ? await checkUpload(job, reporter) : await download(jobDir, job, grant, reporter)
  const limits = { max_virtual_size_bytes: job.max_virtual_size_bytes, grant }
  const { format, virtual_size_bytes } = await convertImage(jobDir, sourcePath, limits, reporter)
  reporter.log('converted', { format, virtual_size_bytes })
  writeManifest(jobPaths(jobDir).manifest, {
    format: 'qcow2',
    virtual_size_bytes,
    boot: null,
    seed: 'nocloud',
    ready_signal: job.ready_signal,
    ssh_user: job.ssh_user,
  })
}

async function download(jobDir: string, job: UrlJob | PublisherJob, grant: Grant, reporter: Reporter): Promise<string> {
  const paths = jobPaths(jobDir)
  if (existsSync(paths.source)) return paths.source // was renamed after its checksum was verified
  const { url, sha256 } = job.kind === 'url' ? job : await publishedFile(jobDir, job, reporter)
  await downloadVerified(url, sha256, { ...job, grant }, paths, reporter)
  return paths.source
}

async function checkUpload(job: UploadJob, reporter: Reporter): Promise<string> {
  reporter.phase('verifying', 'verifying the uploaded file')
  const file = await open(job.path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const stat = await file.stat()
    if (!stat.isFile()) throw new Error('the upload is not a regular file')
    if (stat.size > job.max_bytes) {
      const message = `The uploaded file has ${size(stat.size)} and exceeds the limit of ${size(job.max_bytes)} for an image file.`
      throw new ImportError('image_too_large', message)
    }
    if (job.sha256 === undefined) return job.path
    const hash = createHash('sha256')
    await hashAll(file, hash, (bytes) => reporter.bytes(bytes, stat.size))
    const found = hash.digest('hex')
    if (found === job.sha256.toLowerCase()) return job.path
    const message = `The SHA-256 of the uploaded file is ${found}, not the announced ${job.sha256.toLowerCase()}. Upload the file again.`
    throw new ImportError('image_checksum_mismatch', message)
  } finally {
    await file.close()
  }
}
