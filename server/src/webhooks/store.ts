/** Every SQL statement on `webhooks`; those on deliveries are in deliveries.ts. */
import type { Query, Sql, Transaction } from '../db/database.ts'
import { isIdle } from '../engine/work.ts'
import { lockEnvironment, type Outbox } from '../events/outbox.ts'
import { type Window, windowSql } from '../http/list.ts'
import { ApiError, notFound } from '../lib/errors.ts'
import type { Health } from './retry-schedule.ts'
import type { DisabledReason, WebhookRow } from './row.ts'

/** Maximum number of webhooks per environment, whatever its quota is: each event is compared with all of them. */
const MAX_WEBHOOKS = 50

export async function listWebhooks(sql: Sql, environmentId: string, window: Window): Promise<WebhookRow[]> {
  return sql<WebhookRow[]>`
    select * from webhooks where environment_id = ${environmentId} and not wanted_gone ${windowSql(sql, window)}`
}

/** Throws `not_found`. */
export async function getWebhook(query: Query, environmentId: string, id: string): Promise<WebhookRow> {
  const [row] = await query<WebhookRow[]>`
    select * from webhooks where environment_id = ${environmentId} and id = ${id} and not wanted_gone`
  if (!row) throw notFound('webhook', id)
  return row
}

type Locked = { row: WebhookRow; now: Date }

/** Locks a webhook; returns it with the environment's time, or null if it does not exist. */
export async function findWebhook(tx: Transaction, id: string): Promise<Locked | null> {
  const [found] = await tx<(WebhookRow & { now: Date })[]>`
    select *, environment_now(environment_id) as now from webhooks
    where id = ${id} and not wanted_gone for no key update`
  if (!found) return null
  const { now, ...row } = found
  return { row, now }
}

/** The same for a webhook of this environment. Throws `not_found`. */
export async function lockWebhook(tx: Transaction, environmentId: string, id: string): Promise<Locked> {
  const found = await findWebhook(tx, id)
  if (found?.row.environment_id !== environmentId) throw notFound('webhook', id)
  return found
}

export type NewWebhook = Pick<
  WebhookRow,
  'environment_id' | 'id' | 'url' | 'events' | 'description' | 'wanted_enabled' | 'key_id'
> & { secret: Uint8Array }

/** Throws `conflict` when the environment has the maximum number of webhooks. */
export async function insertWebhook(tx: Transaction, outbox: Outbox, fields: NewWebhook): Promise<WebhookRow> {
  const { environment_id } = fields
  // Concurrent transactions must not exceed the limit together.
  await lockEnvironment(tx, environment_id)
  const [row] = await tx<WebhookRow[]>`
    insert into webhooks (environment_id, id, url, events, description, wanted_enabled, secret, key_id, created_at, updated_at)
    select ${environment_id}, ${fields.id}, ${fields.url}, ${fields.events}, ${fields.description},
      ${fields.wanted_enabled}::boolean, ${fields.secret}::bytea, ${fields.key_id}, now, now
    from environment_now(${environment_id}) as now
    where (select webhooks from environment_heads where environment_id = ${environment_id}) < ${MAX_WEBHOOKS}
    returning *`
  if (row) {
    await countWebhooks(tx, environment_id, 1)
    outbox.use.webhooks += 1
    return row
  }
  const detail = `An environment can have at most ${MAX_WEBHOOKS} webhooks. Delete one, or add event types to an existing one.`
  throw new ApiError('conflict', detail)
}

async function countWebhooks(tx: Transaction, environmentId: string, more: 1 | -1): Promise<void> {
  await lockEnvironment(tx, environmentId)
  await tx`update environment_heads set webhooks = webhooks + ${more} where environment_id = ${environmentId}`
}

/** Hides the webhook from its owner and queues no further deliveries for it. */
export async function markDeleted(tx: Transaction, outbox: Outbox, row: WebhookRow, now: Date): Promise<void> {
  await changeWebhook(tx, row, { wanted_gone: true }, now)
  wakeWebhook(outbox, row)
  await countWebhooks(tx, row.environment_id, -1)
}

/** Locks all webhooks of an environment, before `deleteAllWebhooks` locks the environment. */
export async function lockAllWebhooks(tx: Transaction, environmentId: string): Promise<void> {
  await tx`select from webhooks where environment_id = ${environmentId} order by id for no key update`
}

/** Deletes all webhooks of an environment, because its project is being deleted, and wakes idle keys. */
export async function deleteAllWebhooks(tx: Transaction, outbox: Outbox, environmentId: string): Promise<void> {
  const { count } = await tx`
    update webhooks set wanted_gone = true, version = version + 1, updated_at = environment_now(environment_id)
    where environment_id = ${environmentId} and not wanted_gone`
  await lockEnvironment(tx, environmentId)
  await tx`update environment_heads set webhooks = webhooks - ${count}::integer where environment_id = ${environmentId}`
  const idle = await tx<{ id: string }[]>`
    select id from webhooks r where environment_id = ${environmentId} and ${isIdle(tx, 'webhook')}`
  for (const { id } of idle) outbox.wakes.push({ kind: 'webhook', id, environment_id: environmentId })
}

/** The columns whose change increases `version`; the API shows them. */
export type WebhookChange = Partial<
  Pick<
    WebhookRow,
    | 'url'
    | 'events'
    | 'description'
    | 'wanted_enabled'
    | 'wanted_gone'
    | 'key_id'
    | 'previous_secret_until'
    | 'observed_disabled_reason'
    | 'observed_disabled_at'
    | 'observed_failing_since'
    | 'observed_failed_at'
    | 'observed_throttled'
  >
> & { secret?: Uint8Array; previous_secret?: Uint8Array | null }

/** Changes a locked row. */
export async function changeWebhook(
  tx: Transaction,
  before: WebhookRow,
  change: WebhookChange,
  now: Date,
): Promise<WebhookRow> {
  const columns = { ...change, updated_at: now, version: before.version + 1 }
  const [row] = await tx<WebhookRow[]>`update webhooks set ${tx(columns)} where id = ${before.id} returning *`
  return row!
}

/** Wakes the webhook's reconciler when the transaction commits. */
export function wakeWebhook(outbox: Outbox, { environment_id, id }: WebhookRow): void {
  outbox.wakes.push({ kind: 'webhook', id, environment_id })
}

/** `previous_counts`: the previous secret is still valid. */
export type FoundEndpoint = WebhookRow & { previous_counts: boolean; is_operators: boolean }

/** A webhook as its deliveries need it; null if it does not exist. */
export async function findEndpoint(query: Query, id: string): Promise<FoundEndpoint | null> {
  const [row] = await query<FoundEndpoint[]>`
    select *, coalesce(previous_secret_until > now(), false) as previous_counts,
      belongs_to_operator(environment_id) as is_operators
    from webhooks where id = ${id}`
  return row ?? null
}

/** Writes the health of an endpoint to the locked row. The version increases when `failing_since` changes. */
export async function updateHealth(tx: Transaction, id: string, health: Health): Promise<void> {
  const { failing_since, failed_at, throttled } = health
  await tx`
    update webhooks set observed_failing_since = ${failing_since}, observed_failed_at = ${failed_at},
      observed_throttled = ${throttled},
      version = version + (observed_failing_since is distinct from ${failing_since})::integer
    where id = ${id}`
}

/** Disables a locked webhook for an observed reason. */
export async function disableWebhook(
  tx: Transaction,
  before: WebhookRow,
  reason: DisabledReason,
  now: Date,
): Promise<WebhookRow> {
  return changeWebhook(tx, before, { observed_disabled_reason: reason, observed_disabled_at: now }, now)
}

/** Deletes a webhook whose deliveries were deleted. */
export async function deleteWebhookRow(query: Query, id: string): Promise<void> {
  await query`delete from webhooks where id = ${id} and wanted_gone`
}
