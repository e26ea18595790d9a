/** Stable codes of failed imports, part of the API: the `error` of an image and the reason of an instance. */
export const importErrorCodes = [
  'image_source_unreachable',
  'image_source_not_found',
  'image_source_stalled',
  'image_checksum_mismatch',
  'image_signature_invalid',
  'image_format_unsupported',
  'image_unsafe',
  'image_too_large',
  'image_destination_not_allowed',
  'image_build_failed',
  'image_host_tool_missing',
  /** An error of this host (a full disk, a bug); a retry may succeed. */
  'image_import_failed',
] as const

export type ImportErrorCode = (typeof importErrorCodes)[number]

/** A failed import. `message` is for the user, `detail` only for the log. */
export class ImportError extends Error {
  readonly code: ImportErrorCode
  readonly detail: string | null
  constructor(code: ImportErrorCode, message: string, detail: string | null = null) {
    super(message)
    this.name = 'ImportError'
    this.code = code
    this.detail = detail
  }
}

/** A failure after which a retry may succeed. The message completes "FILE could not be downloaded from HOST: …". */
export class RetryableError extends Error {}

/** Converts any error to an ImportError; an unexpected one becomes `image_import_failed` with its stack as detail. */
export function asImportError(error: unknown): ImportError {
  if (error instanceof ImportError) return error
  const code = (error as NodeJS.ErrnoException | null)?.code
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') return diskFull(detail)
  return new ImportError('image_import_failed', 'The import failed on this host. The cause is in its log.', detail)
}

/** The error for a full disk of the host. */
export function diskFull(detail: string): ImportError {
  return new ImportError(
    'image_import_failed',
    'The disk of this host is full. Free disk space, then retry the import.',
    detail,
  )
}
