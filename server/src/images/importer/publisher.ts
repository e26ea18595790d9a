/** Reads the checksum of a published file from a list whose signature is verified with gpgv. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { dearmor } from './armor.ts'
import { downloadSmall } from './download.ts'
import { ImportError } from './errors.ts'
import type { PublisherJob } from './job.ts'
import { jobPaths } from './job-files.ts'
import type { Reporter } from './reporter.ts'
import { signatureProblem } from './signature.ts'
import { sourceName } from './source.ts'
import { checksumOf } from './sums.ts'
import { fileArgument, requireTool, runTool } from './tool.ts'

const MAX_LIST_BYTES = 4 << 20
const MAX_SIGNATURE_BYTES = 256 << 10
const MAX_KEYRING_BYTES = 1 << 20

/** The URL and verified checksum of a file in a publisher's mirror. Throws ImportError. */
export async function publishedFile(
  jobDir: string,
  job: PublisherJob,
  reporter: Reporter,
): Promise<{ url: string; sha256: string }> {
  requireTool('gpgv')
  const at = (name: string) => urlIn(job.base_url, name)
  const { host } = sourceName(job.base_url)
  reporter.phase('downloading', `downloading ${job.sums_name} from ${host}`)
  const list = await downloadSmall(at(job.sums_name), job, MAX_LIST_BYTES)
  const signature = await downloadSignature(at(job.signature_name), job, host)
  reporter.phase('verifying', `verifying the signature of ${job.sums_name}`)
  await verify(jobDir, job, list, signature, host)
  return { url: at(job.file_name), sha256: checksumOf(list.toString('utf8'), job.file_name, host) }
}

/** The URL of a file in a mirror directory. */
export function urlIn(baseUrl: string, name: string): string {
  const base = URL.parse(baseUrl)
  if (base === null) return baseUrl // rejected when it is requested
  base.search = ''
  base.hash = ''
  if (!base.pathname.endsWith('/')) base.pathname += '/'
  return new URL(encodeURIComponent(name), base).href
}

async function downloadSignature(url: string, job: PublisherJob, host: string): Promise<Buffer> {
  try {
    return await downloadSmall(url, job, MAX_SIGNATURE_BYTES)
  } catch (error) {
    if (!(error instanceof ImportError && error.code === 'image_source_not_found')) throw error
    throw invalid(job, host, 'it has no signature', error.message)
  }
}

async function verify(jobDir: string, job: PublisherJob, list: Buffer, signature: Buffer, host: string) {
  const keyring = dearmor(await readKeyring(job, host))
  const folder = jobPaths(jobDir).publisher
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const files = Object.entries({ keyring, signature, list })
  for (const [name, content] of files) writeFileSync(join(folder, name), content, { mode: 0o600 })
  const result = await runTool({
    jobDir,
    tool: 'gpgv',
    args: [
      '--homedir',
      '/nonexistent',
      '--keyring',
      fileArgument(0),
      '--status-fd',
      '1',
      '--',
      fileArgument(1),
      fileArgument(2),
    ],
    files: files.map(([name]) => ({ path: join(folder, name) })),
    cpuSeconds: 30,
    deadlineMs: 60_000,
  })
  rmSync(folder, { recursive: true, force: true })
  const problem = signatureProblem(result.stdout, job.fingerprints)
  if (problem !== null) throw invalid(job, host, problem, result.stderr)
}

/**
 * The keyring. It may come from an untrusted key server, because the signature must be by a key with a pinned
 * fingerprint.
 */
async function readKeyring(job: PublisherJob, host: string): Promise<Buffer> {
  if (!job.keyring.startsWith('/')) return await downloadSmall(job.keyring, job, MAX_KEYRING_BYTES)
  try {
    return readFileSync(job.keyring)
  } catch (error) {
    throw invalid(job, host, 'the keyring of its publisher is not on this host', String(error))
  }
}

function invalid(job: PublisherJob, host: string, why: string, detail: string): ImportError {
  const message = `${job.sums_name} of ${host} cannot be trusted: ${why}. Use another mirror, or ask the operator to check the keyring.`
  return new ImportError('image_signature_invalid', message, detail)
}
