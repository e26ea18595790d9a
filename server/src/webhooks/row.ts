/** Why CloudNexus disabled a webhook. */
export const DISABLED_REASONS = ['gone', 'failing', 'key_ended'] as const
export type DisabledReason = (typeof DISABLED_REASONS)[number]

export const DELIVERY_STATUSES = ['pending', 'succeeded', 'failed', 'cancelled'] as const
export type DeliveryStatus = (typeof DELIVERY_STATUSES)[number]

export const CAUSES = ['event', 'resend', 'replay', 'ping'] as const
export type Cause = (typeof CAUSES)[number]

/** Why an attempt failed. */
export const ATTEMPT_ERRORS = [
  'destination_not_allowed',
  'name_not_resolved',
  'connect_timeout',
  'connect_failed',
  'tls_failed',
  'timeout',
  'connection_lost',
  'invalid_response',
  'redirect',
  'http_status',
] as const
export type AttemptError = (typeof ATTEMPT_ERRORS)[number]

/** A row of `webhooks`. */
export type WebhookRow = {
  environment_id: string
  id: string
  ordinal: number
  url: string
  events: string[]
  description: string
  wanted_enabled: boolean
  wanted_gone: boolean
  secret: Buffer
  previous_secret: Buffer | null
  previous_secret_until: Date | null
  key_id: string
  observed_disabled_reason: DisabledReason | null
  observed_disabled_at: Date | null
  observed_failing_since: Date | null
  observed_failed_at: Date | null
  observed_throttled: boolean
  created_at: Date
  updated_at: Date
  version: number
}

/** Whether events are sent to the webhook. */
export function isEnabled(
  row: Pick<WebhookRow, 'wanted_enabled' | 'wanted_gone' | 'observed_disabled_reason'>,
): boolean {
  return row.wanted_enabled && !row.wanted_gone && row.observed_disabled_reason === null
}

/** A row of `webhook_deliveries`. */
export type DeliveryRow = {
  id: string
  ordinal: number
  webhook_id: string
  event_id: string
  event_sequence: number
  event_type: string
  cause: Cause
  status: DeliveryStatus
  reason: string | null
  attempts: number
  due_at: Date | null
  created_at: Date
  finished_at: Date | null
}

/** The stored part of a request and its response, in real time. */
export type Attempt = {
  started_at: Date
  duration_ms: number
  /** Durations of the name resolution, the connection with TLS, and the wait for the response; null for a phase that was skipped or not reached. */
  dns_ms: number | null
  connect_ms: number | null
  first_byte_ms: number | null
  request_headers: Record<string, string>
  response_status: number | null
  response_headers: Record<string, string> | null
  response_body: string | null
  /** Null if the attempt succeeded. */
  error: AttemptError | null
}

/** A row of `webhook_attempts`. */
export type AttemptRow = Attempt & { delivery_id: string; number: number }
