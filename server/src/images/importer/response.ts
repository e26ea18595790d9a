/** Evaluates the response to a download request, possibly a conditional range request. Pure. */
import { ImportError, RetryableError } from './errors.ts'
import type { SourceName } from './source.ts'
import { size } from './text.ts'

/** The validators of a file, with which a download can be resumed, and its length. */
export type Meta = { etag: string | null; last_modified: string | null; length: number | null }

/** `start`: offset of the first byte in the body. `complete`: no byte is missing. */
export type DownloadResponse = { start: number; total: number | null; complete: boolean; meta: Meta }

type Headers = Record<string, string | string[] | undefined>

/** The value of If-Range: a strong ETag or the date; null if the download cannot be resumed (RFC 9110, 13.1.5). */
export function resumeValidator(meta: Meta): string | null {
  return meta.etag ?? meta.last_modified
}

/** Evaluates status and headers. Throws RetryableError if a retry may succeed, otherwise ImportError. */
export function readResponse(
  source: SourceName,
  status: number,
  headers: Headers,
  offset: number,
  maxBytes: number,
): DownloadResponse {
  const range = readRange(source, status, headers, offset)
  if (range.total !== null && range.total > maxBytes) throw tooLarge(source, range.total, maxBytes)
  return { ...range, meta: { ...validators(headers), length: range.total } }
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

/** A retry must start at the first byte. */
export class RestartError extends RetryableError {}

/** The error for a file that exceeds the limit; `total` is null if its size is unknown. */
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
