/** Downloads a file: resumes a partial download, limits its size and verifies its checksum. */

import type { OutboundPolicy } from '../../lib/outbound.ts'
import { type OutboundResponse, requestOutbound } from '../../lib/outbound-request.ts'
import { ImportError, RetryableError } from './errors.ts'
import { type Grant, STEP_BYTES } from './grant.ts'
import type { jobPaths } from './job-files.ts'
import { openPart, type Part } from './part.ts'
import type { Reporter } from './reporter.ts'
import { RestartError, readResponse, resumeValidator, tooLarge } from './response.ts'
import { type Watch, withRetries } from './retry.ts'
import { sourceName } from './source.ts'

export type Limits = { allowed_addresses: string[]; stall_timeout_seconds: number; max_bytes: number }
/** The limits of a file on disk, which may occupy what is granted. */
type FileLimits = Limits & { grant: Grant }

/** Downloads a file and moves it to `paths.source` when its checksum is verified. Throws ImportError. */
export async function downloadVerified(
  url: string,
  sha256: string,
  limits: FileLimits,
  paths: ReturnType<typeof jobPaths>,
  reporter: Reporter,
): Promise<void> {
  const { host, file } = sourceName(url)
  reporter.phase('downloading', `downloading ${file} from ${host}`)
  const part = await openPart(paths, (bytes) => reporter.bytes(bytes, null))
  try {
    const resumed = part.offset > 0
    if (resumed) reporter.log('resuming', { bytes: part.offset })
    await downloadRest(url, part, limits, reporter)
    reporter.phase('verifying', `verifying ${file}`)
    if (part.sha256() !== sha256.toLowerCase() && resumed) {
      // A power failure may have damaged the partial download, or the server ignores If-Range: download it again.
      reporter.phase('downloading', `downloading ${file} from ${host} again`)
      await part.restart({ etag: null, last_modified: null, length: null })
      await downloadRest(url, part, limits, reporter)
      reporter.phase('verifying', `verifying ${file}`)
    }
    if (part.sha256() !== sha256.toLowerCase()) {
      await part.remove()
      const message = `The SHA-256 of ${file} from ${host} is ${part.sha256()}, not ${sha256.toLowerCase()}. Check the URL and the checksum, or use another mirror.`
      throw new ImportError('image_checksum_mismatch', message)
    }
    await part.moveTo(paths.source)
  } catch (error) {
    if (error instanceof ImportError && error.code === 'image_too_large') await part.remove()
    throw error
  } finally {
    await part.close()
  }
}

async function downloadRest(url: string, part: Part, limits: FileLimits, reporter: Reporter): Promise<void> {
  if (part.offset > 0 && part.offset === part.meta.length) return
  await withRetries(sourceName(url), limits.stall_timeout_seconds * 1000, async (watch) => {
    const validator = part.offset > 0 ? resumeValidator(part.meta) : null
    const range: Record<string, string> =
      validator === null ? {} : { range: `bytes=${part.offset}-`, 'if-range': validator }
    const response = await get(url, limits, watch, range)
    try {
      await receive(response, url, part, limits, watch, reporter)
    } catch (error) {
      if (error instanceof RestartError) await part.restart({ etag: null, last_modified: null, length: null })
      throw error
    } finally {
      response.close()
    }
  })
}

async function receive(
  response: OutboundResponse,
  url: string,
  part: Part,
  limits: FileLimits,
  watch: Watch,
  reporter: Reporter,
): Promise<void> {
  const source = sourceName(url)
  const { start, total, complete, meta } = readResponse(
    source,
    response.status,
    response.headers,
    part.offset,
    limits.max_bytes,
  )
  if (complete) return
  if (total !== null) await granted(limits, total, watch)
  if (start === 0) await part.restart(meta)
  for await (const chunk of response.body) {
    if (part.offset + chunk.length > limits.max_bytes) throw tooLarge(source, null, limits.max_bytes)
    watch.progress()
    const end = part.offset + chunk.length
    if (total === null) await granted(limits, Math.ceil(end / STEP_BYTES) * STEP_BYTES, watch)
    await part.append(chunk)
    reporter.bytes(part.offset, total)
  }
  if (total !== null && part.offset !== total) throw new RetryableError('the connection was closed early')
}

/** Waits until the file may occupy this many bytes. The wait is no silence of the source. */
async function granted({ grant }: FileLimits, bytes: number, watch: Watch): Promise<void> {
  await watch.paused(grant.need(bytes))
}

/** Downloads a small file into memory. Throws ImportError. */
export async function downloadSmall(url: string, limits: Limits, maxBytes: number): Promise<Buffer> {
  const source = sourceName(url)
  return withRetries(source, limits.stall_timeout_seconds * 1000, async (watch) => {
    const response = await get(url, limits, watch, {})
    try {
      readResponse(source, response.status, response.headers, 0, maxBytes)
      const chunks: Buffer[] = []
      let length = 0
      for await (const chunk of response.body) {
        length += chunk.length
        if (length > maxBytes) throw tooLarge(source, null, maxBytes)
        watch.progress()
        chunks.push(chunk)
      }
      return Buffer.concat(chunks)
    } finally {
      response.close()
    }
  })
}

function get(url: string, limits: Limits, watch: Watch, range: Record<string, string>): Promise<OutboundResponse> {
  // http is allowed, because a file is used only after its checksum or signature is verified.
  const policy: OutboundPolicy = { allowHttp: true, allowedAddresses: limits.allowed_addresses, dnsTimeoutMs: 5000 }
  return requestOutbound(url, policy, {
    headers: { accept: '*/*', 'accept-encoding': 'identity', 'user-agent': 'CloudNexus', ...range },
    signal: watch.signal,
    connectTimeoutMs: 10_000,
    maxRedirects: 5,
  })
}
