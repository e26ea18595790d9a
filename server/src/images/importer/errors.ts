/** Why an import failed. Codes are stable: the control plane shows them as the image's and the instance's reason. */
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
  /** Something on this host (a full disk, a bug): trying again may work. */
  'image_import_failed',
] as const

export type ImportErrorCode = (typeof importErrorCodes)[number]

/** A failed import. `message` is for the user: which source, what to do; `detail` is for our log only. */
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

/** Any error as an ImportError; what was not foreseen becomes `image_import_failed` with its stack as detail. */
export function asImportError(error: unknown): ImportError {
  if (error instanceof ImportError) return error
  const code = (error as NodeJS.ErrnoException | null)?.code
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') return diskFull(detail)
  return new ImportError('image_import_failed', 'The import failed on this host. The cause is in its log.', detail)
}

/** The host has no room for the image. */
export function diskFull(detail: string): ImportError {
  return new ImportError(
    'image_import_failed',
    'The disk of this host is full. Free disk space, then retry the import.',
    detail,
  )
}
