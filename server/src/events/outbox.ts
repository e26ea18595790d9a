/**
 * The outbox of a transaction: numbered events, an audit entry, the change of quota usage, and wakes.
 *
 * Each environment has one row in `environment_heads`. The transaction that updates it holds its lock until the commit, so
 * event numbers rise in commit order without gaps, the audit log is one chain, and usage is compared with the quota by one
 * transaction at a time. To keep that lock short, a transaction collects its outbox in memory, and `withOutbox` writes it
 * in the last statement, in one message with the commit.
 *
 * All transactions lock in one order, so two of them cannot deadlock: resource rows (an owner before what it owns), then
 * the environment, then work rows sorted by key. The last statement is the only one that locks work rows. It wakes keys
 * and checks the lease of the claim that a transaction records (`flush_work`, in migration 0012).
 *
 * An advisory lock is the queue of an environment: transactions that wait for a row lock all wake up at each commit;
 * transactions that wait for an advisory lock wake up one by one.
 */
import type { AuditEntry } from '../audit/entry.ts'
import { AuthorityChangedError } from '../authority/authority.ts'
import { bindTo } from '../db/bound-query.ts'
import type { Query, Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { QuotaExceeded } from '../lib/insufficient-capacity.ts'
import {
  COUNTED_QUOTAS,
  type CountedQuota,
  effectiveQuotas,
  fittingPlans,
  lackingQuota,
  nothingUsed,
  QUOTA_NAMES,
  type QuotaName,
  type Quotas,
  remedyOf,
  STORED_QUOTAS,
  type Use,
} from '../lib/quota.ts'
import type { Random } from '../lib/random.ts'
import type { EventFamily, EventType } from './catalog.ts'

/** One event to be written. */
export type NewEvent = {
  /** Set when the caller needs it before the commit; otherwise generated. */
  id?: string
  type: EventType
  resource_id: string
  request_id: string | null
  /** `object` is the resource as the API shows it at the commit, with its type. */
  data: { object: { object: EventFamily }; previous?: object; details?: object }
}

/** A key of the work table. */
export type WorkKey = { kind: string; id: string; environment_id: string }

/** What the last statement of the transaction writes. `use` is the change of quota usage. */
export type Outbox = { events: NewEvent[]; audit: AuditEntry | null; use: Use; wakes: WorkKey[] }

/** The environment that a transaction belongs to. */
export type Owner = Pick<Principal, 'environment_id' | 'mode'>

export type OutboxDeps = Pick<Deps, 'sql' | 'random' | 'config' | 'notifier'>

export type OutboxOptions = {
  /** Does everything but the commit: the result is returned, and nothing is changed. */
  dry_run?: boolean
  /** The claim whose pass is recorded: the transaction fails with SQLSTATE `LEASE_LOST` unless it is the newest of its key. */
  lease?: { kind: string; id: string; lease: number } | null
  /** The key of the request: the transaction fails with AuthorityChangedError unless it is still as it was. */
  authority?: Principal | null
}

/** SQLSTATEs of refuse_outbox(). */
const OVER_QUOTA = 'CN001'
const CLOSED = 'CN004'
/** SQLSTATE of check_authority(). */
const AUTHORITY_CHANGED = 'CN003'
/** SQLSTATE of flush_work() for a lost lease; `engine/record.ts` makes a LeaseLostError of it. */
export const LEASE_LOST = 'CN002'

/** Ends the transaction of a dry run. */
class DryRunEnd extends Error {}

/**
 * Runs a transaction of one environment and writes its outbox last. Throws QuotaExceeded when the project would exceed a
 * quota, and `invalid_api_key` for a request of a project that is being deleted, whose keys are revoked. After the commit
 * it notifies engines of the wakes and readers of the events.
 */
export async function withOutbox<T>(
  deps: OutboxDeps,
  owner: Owner,
  body: (tx: Transaction, outbox: Outbox) => Promise<T>,
  { dry_run = false, lease = null, authority = null }: OutboxOptions = {},
): Promise<T> {
  let preview: T | undefined
  let written: Outbox | undefined
  try {
    const result = await deps.sql.as(owner.environment_id).begin(async (tx): Promise<T> => {
      const outbox = emptyOutbox()
      const result = await body(tx, outbox)
      written = outbox
      // The last statement counts what concurrent transactions have added: they must have ended before it begins.
      if (COUNTED_QUOTAS.some((name) => outbox.use[name] > 0)) await lockEnvironment(tx, owner.environment_id)
      const last = flush(tx, deps, owner, outbox, { lease, authority })
      if (!dry_run) {
        if (last) tx.commitWith(last)
        return result
      }
      await last
      preview = result
      throw new DryRunEnd()
    })
    if (written!.events.length > 0) deps.notifier.changed(owner.environment_id)
    if (written!.events.length > 0 || written!.wakes.length > 0) deps.notifier.announce()
    return result
  } catch (error) {
    if (error instanceof DryRunEnd) return preview as T
    const { code } = error as { code?: string }
    if (code === AUTHORITY_CHANGED)
      throw new AuthorityChangedError('the key has ended or has changed', { cause: error })
    if (code === CLOSED) throw closed()
    if (code !== OVER_QUOTA) throw error
    throw await quotaExceeded(deps.sql.as(owner.environment_id), deps, owner, written!.use)
  }
}

const emptyOutbox = (): Outbox => ({ events: [], audit: null, use: nothingUsed(), wakes: [] })

function closed(): ApiError {
  const detail = 'The project of this key is being deleted, and its keys are revoked.'
  return new ApiError('invalid_api_key', detail, { headers: { 'www-authenticate': 'Bearer' } })
}

/** A part of a transaction that changes another environment. */
export type OtherPart = {
  owner: Owner
  /** Locks and changes resource rows. */
  rows(outbox: Outbox): Promise<void>
  /** Changes the row of the environment, after its lock. */
  environment(outbox: Outbox): Promise<void>
}

/**
 * Changes other environments in a transaction, all of them in the order of locks: first resource rows, then environments.
 * Their wakes go into the transaction's own outbox, because work rows are locked last. Afterwards the transaction is bound
 * to its own environment again.
 */
export async function changeOthers(
  tx: Transaction,
  deps: OutboxDeps,
  own: { environment_id: string; outbox: Outbox },
  parts: OtherPart[],
): Promise<void> {
  const outboxes = parts.map(emptyOutbox)
  for (const [i, { owner, rows }] of parts.entries()) {
    await bindTo(tx, owner.environment_id)
    await rows(outboxes[i]!)
  }
  for (const [i, { owner, environment }] of parts.entries()) {
    await bindTo(tx, owner.environment_id)
    await lockEnvironment(tx, owner.environment_id)
    await environment(outboxes[i]!)
    const { wakes, ...rest } = outboxes[i]!
    await flush(tx, deps, owner, { ...rest, wakes: [] }, {})
    own.outbox.wakes.push(...wakes)
  }
  await bindTo(tx, own.environment_id)
}

/** Locks the environment before the last statement does, to read or count what the environment has. */
export async function lockEnvironment(tx: Transaction, environmentId: string): Promise<void> {
  await tx`select pg_advisory_xact_lock(hashtextextended(${environmentId}, 0))`
}

/** The statement that writes the outbox; null when it is empty. */
function flush(
  tx: Transaction,
  deps: OutboxDeps,
  owner: Owner,
  outbox: Outbox,
  { lease = null, authority = null }: Pick<OutboxOptions, 'lease' | 'authority'>,
) {
  const { environment_id } = owner
  const { events, audit, use, wakes } = outbox
  const changes = STORED_QUOTAS.some((name) => use[name] !== 0)
  const adds = QUOTA_NAMES.some((name) => use[name] > 0)
  // Reconcilers continue in an environment that is closed to requests.
  const isRequest = audit !== null && lease === null
  if (events.length === 0 && audit === null && !changes && !adds) {
    if (wakes.length > 0 || lease) return tx`select ${flushWork(tx, wakes, lease)} ${checkAuthority(tx, authority)}`
    return authority && tx`select null ${checkAuthority(tx, authority)}`
  }
  return tx`
    with head as (
      update environment_heads h set sequence = h.sequence + ${events.length}::bigint
        ${changes ? addUse(tx, use) : tx``}
        ${audit ? tx`, audit_sequence = h.audit_sequence + 1, audit_hash = sha256(h.audit_hash || ${audit.digest}::bytea)` : tx``}
      from (select pg_advisory_xact_lock(hashtextextended(${environment_id}, 0))) as locked
      where h.environment_id = ${environment_id} ${adds ? withinQuota(tx, deps.config.quotas[owner.mode], use) : tx``}
        ${isRequest ? tx`and not h.closed` : tx``}
      returning h.sequence, h.audit_sequence, h.audit_hash, h.webhooks, environment_now(${environment_id}) as now
    )
    ${events.length > 0 ? insertEvents(tx, deps.random, environment_id, events) : tx``}
    ${audit ? insertEntry(tx, environment_id, audit) : tx``}
    select case when not exists (select from head) then refuse_outbox(${environment_id}, ${isRequest})
      else ${events.length > 0 ? flushWithDeliveries(tx, environment_id, wakes, lease) : flushWork(tx, wakes, lease)} end
      ${checkAuthority(tx, authority)}`
}

/** A further column of the last statement. */
function checkAuthority(tx: Query, authority: Principal | null) {
  if (authority === null) return tx``
  const { key_id, scopes, allowed_addresses } = authority
  return tx`, check_authority(${key_id}, ${scopes}::text[], ${allowed_addresses}::text[])`
}

/** Wakes keys and checks a lease, in the order of all these keys. */
function flushWork(tx: Query, wakes: WorkKey[], lease: OutboxOptions['lease']) {
  return tx`flush_work(${column(wakes, 'kind')}::text[], ${column(wakes, 'id')}::text[],
    ${column(wakes, 'environment_id')}::text[], ${lease?.kind ?? null}, ${lease?.id ?? null}, ${lease?.lease ?? null}::bigint)`
}

/** The same for a transaction that emits events: queues their deliveries, and wakes the webhooks that receive them. */
function flushWithDeliveries(tx: Query, environmentId: string, wakes: WorkKey[], lease: OutboxOptions['lease']) {
  const each = (value: unknown) => tx`array_fill(${value}::text, array[cardinality(webhooks)])`
  return tx`(
    select flush_work(${column(wakes, 'kind')}::text[] || ${each('webhook')}, ${column(wakes, 'id')}::text[] || webhooks,
      ${column(wakes, 'environment_id')}::text[] || ${each(environmentId)},
      ${lease?.kind ?? null}, ${lease?.id ?? null}, ${lease?.lease ?? null}::bigint)
    from (
      select case when (select webhooks from head) > 0 then (
        select queue_deliveries(${environmentId}, array_agg(id), array_agg(sequence), array_agg(type),
          array_agg(resource_id), max(created_at)) from emitted)
        else '{}'::text[] end as webhooks
    ) as queued)`
}

const column = <Row, Name extends keyof Row>(rows: Row[], name: Name): Row[Name][] => rows.map((row) => row[name])

function addUse(tx: Query, use: Use) {
  return tx`, used_instances = used_instances + ${use.instances}::bigint, used_vcpus = used_vcpus + ${use.vcpus}::bigint,
    used_memory_bytes = used_memory_bytes + ${use.memory_bytes}::bigint,
    used_disk_bytes = used_disk_bytes + ${use.disk_bytes}::bigint,
    used_public_ips = used_public_ips + ${use.public_ips}::bigint, used_images = used_images + ${use.images}::bigint,
    used_image_bytes = used_image_bytes + ${use.image_bytes}::bigint`
}

/** What `lackingQuota` says, as a condition. The names are ours. */
function withinQuota(tx: Query, configured: Partial<Quotas>, use: Use) {
  const [operators, others] = [effectiveQuotas(configured, {}, true), effectiveQuotas(configured, {}, false)]
  const conditions = QUOTA_NAMES.filter((name) => use[name] > 0).map(
    (name) => tx`
      and ${usedAfter(tx, name, use)} <= coalesce(
        case when h.quota ? ${name} then (h.quota ->> ${name})::bigint
          when h.of_operator then ${operators[name]}::bigint else ${others[name]}::bigint end,
        9223372036854775807)`,
  )
  return conditions.reduce((all, condition) => tx`${all}${condition}`, tx``)
}

/** The usage of the environment `h` after the transaction, which has already added the rows that are counted. */
function usedAfter(tx: Query, name: QuotaName, use: Use) {
  return isCounted(name) ? tx`(${countOf(tx, name)})` : tx`h.${tx(`used_${name}`)} + ${use[name]}::bigint`
}

const isCounted = (name: QuotaName): name is CountedQuota => (COUNTED_QUOTAS as readonly string[]).includes(name)

/** How many rows of the environment `h` count. */
function countOf(query: Query, name: CountedQuota) {
  switch (name) {
    case 'subnets':
      return query`select count(*) from subnets s where s.environment_id = h.environment_id`
    case 'webhooks':
      return query`select count(*) from webhooks w where w.environment_id = h.environment_id and not w.wanted_gone`
    case 'api_keys':
      // A key that a rotation has replaced does not count, so that rotation is possible at the quota.
      return query`
        select count(*) from api_keys k where k.environment_id = h.environment_id and k.retires_at is null
          and coalesce(least(k.expires_at, k.revoked_at), 'infinity') > now()`
  }
}

function insertEvents(tx: Query, random: Random, environmentId: string, events: NewEvent[]) {
  return tx`, emitted as (
    insert into events (environment_id, sequence, id, type, resource_type, resource_id, request_id, created_at, data)
    select ${environmentId}, head.sequence - ${events.length}::bigint + e.number, e.id, e.type, e.resource_type,
      e.resource_id, e.request_id, head.now, e.data::json
    from head, unnest(${events.map(({ id }) => id ?? newId('evt', random))}::text[], ${column(events, 'type')}::text[],
      ${events.map(({ data }) => data.object.object)}::text[], ${column(events, 'resource_id')}::text[],
      ${column(events, 'request_id')}::text[], ${events.map(({ data }) => JSON.stringify(data))}::text[])
      with ordinality as e(id, type, resource_type, resource_id, request_id, data, number)
    returning id, sequence, type, resource_id, created_at)`
}

function insertEntry(tx: Query, environmentId: string, { entry, digest }: AuditEntry) {
  return tx`, entered as (
    insert into audit_log (environment_id, sequence, id, created_at, key_id, address, request_id, req_id, action,
      resource, outcome, status, code, before, after, digest, hash)
    select ${environmentId}, head.audit_sequence, ${entry.id}, ${entry.created_at}, ${entry.key_id}, ${entry.address},
      ${entry.request_id}, ${entry.req_id}, ${entry.action}, ${entry.resource}, ${entry.outcome}, ${entry.status}::int,
      ${entry.code}, ${entry.before && tx.json(entry.before)}::jsonb, ${entry.after && tx.json(entry.after)}::jsonb,
      ${digest}::bytea, head.audit_hash
    from head)`
}

/** The error, with figures that are read after the rollback: they may differ from those of the refused statement. */
async function quotaExceeded(tx: Query, deps: OutboxDeps, owner: Owner, use: Use): Promise<QuotaExceeded> {
  const { used, quotas } = await readUse(tx, deps, owner)
  const name = lackingQuota(quotas, used, use) ?? QUOTA_NAMES.find((each) => use[each] > 0)!
  const limit = quotas[name]
  const detail = `The quota of the project is ${limit} ${name}. It uses ${used[name]}, and this request needs ${use[name]} more. ${remedyOf(name)}, or ask the operator for a larger quota.`
  return new QuotaExceeded(detail, {
    scope: 'quota',
    resource: name,
    limit,
    used: used[name],
    retryable: true,
    alternatives: isCounted(name) ? [] : fittingPlans(deps.config.plans, quotas, used),
  })
}

/** Usage and quotas of an environment. */
export async function readUse(
  query: Query,
  deps: Pick<Deps, 'config'>,
  { environment_id, mode }: Owner,
): Promise<{ used: Use; quotas: Quotas }> {
  const [head] = await query<(Use & { quota: Partial<Quotas>; of_operator: boolean })[]>`
    select used_instances as instances, used_vcpus as vcpus, used_memory_bytes as memory_bytes,
      used_disk_bytes as disk_bytes, used_public_ips as public_ips, used_images as images,
      used_image_bytes as image_bytes, (${countOf(query, 'subnets')}) as subnets,
      (${countOf(query, 'webhooks')}) as webhooks, (${countOf(query, 'api_keys')}) as api_keys, quota, of_operator
    from environment_heads h where environment_id = ${environment_id}`
  const { quota, of_operator, ...used } = head!
  return { used, quotas: effectiveQuotas(deps.config.quotas[mode], quota, of_operator) }
}
