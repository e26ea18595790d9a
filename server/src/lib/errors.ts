/** A failure at start that the operator can mend: one clear line, exit code 1, no stack. */
export class StartupError extends Error {}

/** The database did not answer: lost, refused, starting, stopping or full. Trying again later may work. */
export class DatabaseUnavailableError extends Error {
  constructor(cause: unknown) {
    super(`the database does not answer: ${cause instanceof Error ? cause.message : cause}`, { cause })
  }
}

/** One thing that is wrong with a request; `pointer` (RFC 6901) into the body, or the name of a query parameter. */
export type FieldError = { pointer?: string; parameter?: string; code: string; message: string }

/**
 * The catalogue of errors that the API answers: code → status and title. A code is stable for ever; the `detail` of
 * each occurrence says what happened and what to do.
 */
export const CATALOGUE = {
  malformed_json: [400, 'The body is not valid JSON'],
  invalid_parameter: [400, 'A query parameter or header is not valid'],
  invalid_cursor: [400, 'The cursor is not valid'],
  bad_request: [400, 'The request cannot be read'],
  invalid_api_key: [401, 'The API key is missing or not valid'],
  insufficient_scope: [403, 'The API key may not do this'],
  address_not_allowed: [403, 'The API key may not be used from this address'],
  not_found: [404, 'There is no such thing'],
  method_not_allowed: [405, 'The method is not allowed here'],
  request_timeout: [408, 'The request took too long to arrive'],
  invalid_state: [409, 'The resource is in a state that does not allow this'],
  capacity_exhausted: [409, 'There is no room'],
  reboot_required: [409, 'The change needs a reboot'],
  termination_protected: [409, 'The instance is protected against termination'],
  conflict: [409, 'It conflicts with what is there'],
  already_exists: [409, 'It exists already'],
  in_use: [409, 'It is in use'],
  idempotency_in_flight: [409, 'A request with this Idempotency-Key is being carried out'],
  events_expired: [410, 'The events are no longer kept'],
  precondition_failed: [412, 'The resource has changed'],
  payload_too_large: [413, 'The body is too large'],
  uri_too_long: [414, 'The address is too long'],
  unsupported_media_type: [415, 'The media type of the body is not supported'],
  validation_failed: [422, 'The request is not valid'],
  idempotency_key_reused: [422, 'The Idempotency-Key stands for another request'],
  immutable_field: [422, 'The field cannot be changed'],
  disk_cannot_shrink: [422, 'A disk cannot become smaller'],
  rate_limited: [429, 'Too many requests'],
  headers_too_large: [431, 'The headers are too large'],
  internal_error: [500, 'Something went wrong on our side'],
  unavailable: [503, 'The service cannot answer right now'],
} as const satisfies Record<string, readonly [number, string]>

export type ErrorCode = keyof typeof CATALOGUE

/**
 * An answer that is not a success. `detail` and `extensions` are for the user; `internal` (and `cause`) only reach the
 * log.
 */
export class ApiError extends Error {
  readonly code: ErrorCode
  readonly detail: string
  readonly errors: FieldError[] | undefined
  readonly extensions: Record<string, unknown>
  readonly headers: Record<string, string>
  constructor(
    code: ErrorCode,
    detail: string,
    options: {
      errors?: FieldError[]
      extensions?: Record<string, unknown>
      headers?: Record<string, string>
      cause?: unknown
    } = {},
  ) {
    super(detail, { cause: options.cause })
    this.code = code
    this.detail = detail
    this.errors = options.errors
    this.extensions = options.extensions ?? {}
    this.headers = options.headers ?? {}
  }
  get status(): number {
    return CATALOGUE[this.code][0]
  }
}

/** 422 with every wrong field at once. */
export function validationFailed(errors: FieldError[]): ApiError {
  const detail = errors.length === 1 ? errors[0]!.message : `${errors.length} fields are not valid; see errors.`
  return new ApiError('validation_failed', detail, { errors })
}

/** 404 that does not tell whether the thing exists elsewhere. */
export function notFound(what: string, id: string): ApiError {
  return new ApiError('not_found', `There is no ${what} ${JSON.stringify(id.slice(0, 64))} in this environment.`)
}
