/**
 * Creates and changes webhooks. A key that sets the URL or the events of a webhook must be able to read those events:
 * otherwise a key that may only write webhooks could receive events that it may not read.
 */
import type { Transaction } from '../db/database.ts'
import { belongsToOperator } from '../db/operator.ts'
import type { Deps } from '../deps.ts'
import { EVENT_TYPES } from '../events/catalog.ts'
import type { Outbox } from '../events/outbox.ts'
import { matches, scopeOf } from '../events/patterns.ts'
import { checkIfMatch } from '../http/etag.ts'
import type { Principal } from '../keys/principal.ts'
import { succeeds } from '../keys/store.ts'
import { isSameJson } from '../lib/canonical-json.ts'
import { ApiError, validationFailed } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { checkDestination, OutboundError } from '../lib/outbound.ts'
import { seal } from '../lib/secret-box.ts'
import { BUDGET, policyOf } from './attempt.ts'
import { showWebhook } from './present.ts'
import { isEnabled, type WebhookRow } from './row.ts'
import type { WebhookCreateBody, WebhookUpdateBody } from './schema.ts'
import { newSecret } from './signature.ts'
import { changeWebhook, insertWebhook, lockWebhook, markDeleted, wakeWebhook } from './store.ts'

type ManageDeps = Pick<Deps, 'random' | 'secrets'>
type Target = { principal: Principal; id: string; if_match: string | undefined }

/** The event types that match any of the patterns. */
export function typesOf(patterns: readonly string[]): string[] {
  return Object.keys(EVENT_TYPES).filter((type) => patterns.some((pattern) => matches(pattern, type)))
}

/**
 * Throws `validation_failed` for a URL that is not allowed, with the same text for every reason. Accepts a host name that
 * does not resolve: the destination is checked again for each attempt.
 */
export async function checkUrl(
  deps: Pick<Deps, 'config' | 'resolve' | 'sql'>,
  { environment_id }: Pick<Principal, 'environment_id'>,
  url: string | undefined,
): Promise<void> {
  if (url === undefined) return
  try {
    await checkDestination(
      url,
      policyOf(deps, await belongsToOperator(deps.sql.as(environment_id), environment_id), BUDGET.dns_ms),
    )
  } catch (error) {
    if (!(error instanceof OutboundError)) throw error
    if (error.code === 'name_not_resolved') return
    const message = `url: ${error.message}. The URL must use https, resolve to public IP addresses, use port 443, 80 or one above 1023, and contain no user name, password or fragment. The operator can allow other IP addresses with CLOUDNEXUS_WEBHOOK_ALLOW.`
    throw validationFailed([{ pointer: '/url', code: 'not_allowed', message }])
  }
}

/** Creates a webhook. Returns it with its secret, which is returned only once. */
export async function createWebhook(
  tx: Transaction,
  outbox: Outbox,
  deps: ManageDeps,
  principal: Principal,
  body: WebhookCreateBody,
): Promise<{ row: WebhookRow; secret: string }> {
  checkEvents(principal, body.events, true)
  const secret = newSecret(deps.random)
  const row = await insertWebhook(tx, outbox, {
    environment_id: principal.environment_id,
    id: newId('whk', deps.random),
    key_id: principal.key_id,
    url: body.url,
    events: body.events,
    description: body.description ?? '',
    wanted_enabled: body.enabled ?? true,
    secret: seal(deps.secrets.seal_key, secret.bytes, deps.random),
  })
  return { row, secret: secret.text }
}

/** Changes the given fields. Enabling a webhook clears its disabled reason and its failures. */
export async function updateWebhook(
  tx: Transaction,
  outbox: Outbox,
  { principal, id, if_match }: Target,
  { url, events, description, enabled }: WebhookUpdateBody,
): Promise<{ before: WebhookRow; after: WebhookRow }> {
  const { row: before, now } = await lockWebhook(tx, principal.environment_id, id)
  checkIfMatch(if_match, showWebhook(before))
  const enabling = enabled === true && !isEnabled(before)
  const redirected = url !== undefined && url !== before.url
  const newEvents = events !== undefined && !isSameJson(events, before.events)
  if (enabling || redirected || newEvents) checkEvents(principal, events ?? before.events, events !== undefined)
  const change = {
    ...(redirected && { url }),
    ...(newEvents && { events }),
    ...(description !== undefined && description !== before.description && { description }),
    ...(enabled !== undefined && enabled !== isEnabled(before) && { wanted_enabled: enabled }),
    ...(enabling && HEALTHY),
    ...((enabling || redirected || newEvents) && principal.key_id !== before.key_id && { key_id: principal.key_id }),
  }
  if (Object.keys(change).length === 0) return { before, after: before }
  const after = await changeWebhook(tx, before, change, now)
  wakeWebhook(outbox, after)
  return { before, after }
}

const HEALTHY = {
  observed_disabled_reason: null,
  observed_disabled_at: null,
  observed_failing_since: null,
  observed_failed_at: null,
  observed_throttled: false,
}

/** Hides the webhook from its owner; its reconciler deletes the deliveries and the row. */
export async function deleteWebhook(
  tx: Transaction,
  outbox: Outbox,
  { principal, id, if_match }: Target,
): Promise<WebhookRow> {
  const { row, now } = await lockWebhook(tx, principal.environment_id, id)
  checkIfMatch(if_match, showWebhook(row))
  await markDeleted(tx, outbox, row, now)
  return row
}

/**
 * A new secret is shown to the key whose webhook it is and to its successors. Other keys need `keys:write`: they could
 * create a key that may see it.
 */
async function checkMaySeeSecret(tx: Transaction, principal: Principal, row: WebhookRow): Promise<void> {
  if (principal.scopes.includes('keys:write')) return
  if (await succeeds(tx, principal.environment_id, principal.key_id, row.key_id)) return
  const detail =
    'The webhook belongs to another key. Rotate its secret with that key, or with a key that has the scope keys:write.'
  throw new ApiError('insufficient_scope', detail, { extensions: { required_scope: 'keys:write' } })
}

/** Replaces the secret. Requests are also signed with the previous one for `overlapSeconds` of real time. */
export async function rotateSecret(
  tx: Transaction,
  deps: ManageDeps & Pick<Deps, 'clock'>,
  { principal, id, if_match }: Target,
  overlapSeconds: number,
): Promise<{ before: WebhookRow; after: WebhookRow; secret: string }> {
  const { row: before, now } = await lockWebhook(tx, principal.environment_id, id)
  await checkMaySeeSecret(tx, principal, before)
  checkIfMatch(if_match, showWebhook(before))
  const secret = newSecret(deps.random)
  const change = {
    secret: seal(deps.secrets.seal_key, secret.bytes, deps.random),
    previous_secret: before.secret,
    previous_secret_until: new Date(deps.clock.now().getTime() + overlapSeconds * 1000),
  }
  return { before, after: await changeWebhook(tx, before, change, now), secret: secret.text }
}

/** Throws `invalid_state` for a disabled webhook. */
export function requireEnabled(row: WebhookRow): void {
  if (isEnabled(row)) return
  const detail = 'The webhook is disabled, so nothing is sent to it. Enable it first: PUT { "enabled": true }.'
  throw new ApiError('invalid_state', detail, { extensions: { current_status: 'disabled', allowed_actions: [] } })
}

/** Throws `insufficient_scope` unless the key may read every event type of the patterns. */
function checkEvents(principal: Principal, patterns: string[], inBody: boolean): void {
  const missing = [...new Set(typesOf(patterns).map(scopeOf))].filter((scope) => !principal.scopes.includes(scope))
  if (missing.length === 0) return
  const detail = `Your key may not read all of these events. It does not have these scopes: ${missing.join(', ')}.`
  throw new ApiError('insufficient_scope', detail, {
    errors: [{ ...(inBody && { pointer: '/events' }), code: 'exceeds_own_key', message: detail }],
    extensions: { missing_scopes: missing },
  })
}
