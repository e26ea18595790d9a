/** A failure at startup that the operator can fix: one line, exit code 1, no stack. */
export class StartupError extends Error {}

/** The database is unavailable: connection lost or refused, starting, stopping or full. A retry may succeed. */
export class DatabaseUnavailableError extends Error {
  /** SQLSTATE, or the code of the system's error; undefined if there is none. */
  readonly code: string | undefined
  constructor(cause: unknown) {
    super(`the database does not answer: ${cause instanceof Error ? cause.message : cause}`, { cause })
    this.code = (cause as { code?: string } | null)?.code
  }
}

/** One error in a request; `pointer` (RFC 6901) into the body, or the name of a query parameter. */
export type FieldError = { pointer?: string; parameter?: string; code: string; message: string }

/**
 * The catalogue of API errors: code → status and title. A code never changes; the `detail` of each occurrence states
 * what happened and what to do.
 */
export const CATALOGUE = {
  malformed_json: [400, 'The request body is not valid JSON'],
  invalid_parameter: [400, 'A query parameter or header is invalid'],
  invalid_cursor: [400, 'The cursor is invalid'],
  bad_request: [400, 'The request is malformed'],
  invalid_api_key: [401, 'The API key is missing or invalid'],
  insufficient_scope: [403, 'The API key does not have the required permission'],
  address_not_allowed: [403, 'The API key cannot be used from this IP address'],
  not_in_budget: [403, 'The budget of the API key has not made this resource'],
  not_found: [404, 'Not found'],
  method_not_allowed: [405, 'Method not allowed'],
  request_timeout: [408, 'The request timed out'],
  invalid_state: [409, 'The current state of the resource does not allow this operation'],
  capacity_exhausted: [409, 'Insufficient capacity or quota'],
  reboot_required: [409, 'The change requires a reboot'],
  termination_protected: [409, 'Termination protection is enabled'],
  conflict: [409, 'The request conflicts with the current state'],
  already_exists: [409, 'The resource already exists'],
  in_use: [409, 'The resource is in use'],
  idempotency_in_flight: [409, 'A request with this Idempotency-Key is in progress'],
  events_expired: [410, 'The events have expired'],
  events_ahead: [409, 'The position is beyond the newest event'],
  precondition_failed: [412, 'The resource has changed since you read it'],
  payload_too_large: [413, 'The request body is too large'],
  uri_too_long: [414, 'The request URL is too long'],
  unsupported_media_type: [415, 'Unsupported media type'],
  validation_failed: [422, 'The request body failed validation'],
  idempotency_key_reused: [422, 'The Idempotency-Key was used for a different request'],
  immutable_field: [422, 'The field cannot be changed'],
  disk_cannot_shrink: [422, 'A disk cannot be made smaller'],
  rate_limited: [429, 'Too many requests'],
  headers_too_large: [431, 'The request headers are too large'],
  internal_error: [500, 'Internal server error'],
  unavailable: [503, 'Service unavailable'],
  insufficient_storage: [507, 'The disk of the host is full'],
} as const satisfies Record<string, readonly [number, string]>

export type ErrorCode = keyof typeof CATALOGUE

/**
 * An error response. `detail` and `extensions` are sent to the client; `cause` is only logged.
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

/** 422 that lists every invalid field. */
export function validationFailed(errors: FieldError[]): ApiError {
  const detail = errors.length === 1 ? errors[0]!.message : `${errors.length} fields are invalid; see errors.`
  return new ApiError('validation_failed', detail, { errors })
}

/** 404; the text is the same when the resource exists in another environment. */
export function notFound(what: string, id: string): ApiError {
  return new ApiError(
    'not_found',
    `No ${what} with the ID ${JSON.stringify(id.slice(0, 64))} exists in this environment.`,
  )
}
