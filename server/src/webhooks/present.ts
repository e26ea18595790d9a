import type { Static } from 'typebox'
import { timeOrNull, timestamp } from '../lib/timestamp.ts'
import { type AttemptRow, type DeliveryRow, isEnabled, type WebhookRow } from './row.ts'
import type { Webhook, WebhookAttempt, WebhookDelivery } from './schema.ts'

/** A webhook as the API returns it, without its secret. */
export function showWebhook(row: WebhookRow): Static<typeof Webhook> {
  const { id, url, events, description, key_id, version } = row
  return {
    id,
    url,
    events,
    description,
    enabled: isEnabled(row),
    disabled_reason: row.observed_disabled_reason,
    disabled_at: timeOrNull(row.observed_disabled_at),
    failing_since: timeOrNull(row.observed_failing_since),
    previous_secret_until: timeOrNull(row.previous_secret_until),
    key_id,
    created_at: timestamp(row.created_at),
    updated_at: timestamp(row.updated_at),
    version,
  }
}

/** A delivery as the API returns it. */
export function showDelivery(row: DeliveryRow): Static<typeof WebhookDelivery> {
  const { id, webhook_id, event_id, event_sequence, event_type, cause, status, reason, attempts } = row
  return {
    id,
    webhook_id,
    event_id,
    event_type,
    event_sequence,
    cause,
    status,
    reason,
    attempt_count: attempts,
    next_attempt_at: timeOrNull(row.due_at),
    created_at: timestamp(row.created_at),
    finished_at: timeOrNull(row.finished_at),
  }
}

/** An attempt as the API returns it. */
export function showAttempt(row: AttemptRow): Static<typeof WebhookAttempt> {
  const { number, started_at, duration_ms, dns_ms, connect_ms, first_byte_ms, error } = row
  const { request_headers, response_status, response_headers, response_body } = row
  return {
    number,
    started_at: started_at.toISOString(),
    error,
    duration_ms: rounded(duration_ms)!,
    dns_ms: rounded(dns_ms),
    connect_ms: rounded(connect_ms),
    first_byte_ms: rounded(first_byte_ms),
    request_headers,
    response_status,
    response_headers,
    response_body,
  }
}

const rounded = (ms: number | null): number | null => (ms === null ? null : Math.round(ms * 1000) / 1000)
