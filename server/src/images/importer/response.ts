/** What an answer to "give me the file, from byte OFFSET if it is still the same" means. Pure. */
import { ImportError } from './errors.ts'
import { RetryableError } from './retry.ts'
import type { SourceName } from './source.ts'
import { size } from './text.ts'

/** By what a file is known to be the same later, and how long it is. */
export type Meta = { etag: string | null; last_modified: string | null; length: number | null }

/** `start` is 0 when the file begins anew; `complete` when nothing is missing. */
export type DownloadResponse = { start: number; total: number | null; complete: boolean; meta: Meta }

type Headers = Record<string, string | string[] | undefined>

/** The value for If-Range: a strong ETag, else the date; null when the file cannot be resumed (RFC 9110, 13.1.5). */
export function resumeValidator(meta: Meta): string | null {
  return meta.etag ?? meta.last_modified
}

/** Reads status and headers. Throws ImportError when no other attempt can help, RetryableError when one may. */
export function readResponse(
  source: SourceName,
  status: number,
  headers: Headers,
  offset: number,
  maxBytes: number,
): DownloadResponse {
  const answer = {
    ...readRange(source, status, headers, offset),
    meta: { etag: null, last_modified: null, length: null },
  }
  const { total } = answer
  if (total !== null && total > maxBytes) throw tooLarge(source, total, maxBytes)
  return { ...answer, meta: { ...validators(headers), length: total } }
}

function readRange(
  source: SourceName,
  status: number,
  headers: Headers,
  offset: number,
): Omit<DownloadResponse, 'meta'> {
  if (status === 200) return { start: 0, total: number(headers['content-length']), complete: false }
  if (status === 206 && offset > 0) {
    const [, first, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(text(headers['content-range'])) ?? []
    if (number(first) === offset) return { start: offset, total: number(total), complete: false }
    throw new RestartError('it returned another range of the file')
  }
  if (status === 416 && offset > 0) {
    const [, total] = /^bytes \*\/(\d+)$/.exec(text(headers['content-range'])) ?? []
    if (number(total) === offset) return { start: offset, total: offset, complete: true }
    throw new RestartError('the file has become shorter')
  }
  if (status === 404 || status === 410) {
    const message = `${source.host} has no ${source.file} (it returned status ${status}). Check the URL.`
    throw new ImportError('image_source_not_found', message)
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500)
    throw new RetryableError(`it returned status ${status}`)
  const message = `${source.file} could not be downloaded from ${source.host}: it returned status ${status}. Check the URL.`
  throw new ImportError('image_source_unreachable', message)
}

/** Another attempt may help, from the first byte. */
export class RestartError extends RetryableError {}

/** The refusal of a source file beyond the limit; `total` is null when it only proved to be so on the way. */
export function tooLarge(source: SourceName, total: number | null, maxBytes: number): ImportError {
  const what = total === null ? 'exceeds' : `has ${size(total)} and exceeds`
  const message = `${source.file} from ${source.host} ${what} the limit of ${size(maxBytes)} for an image file.`
  return new ImportError('image_too_large', message)
}

function validators(headers: Headers): { etag: string | null; last_modified: string | null } {
  const etag = text(headers.etag)
  return { etag: /^"[^"]*"$/.test(etag) ? etag : null, last_modified: text(headers['last-modified']) || null }
}

const text = (value: string | string[] | undefined) => (typeof value === 'string' ? value : '')

function number(value: string | string[] | undefined): number | null {
  return typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : null
}
