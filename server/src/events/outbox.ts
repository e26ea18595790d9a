/**
 * What a transaction adds to its environment's head: numbered events, an entry of the audit log, and what the project
 * now uses more or less of.
 *
 * The head is one row per environment. Its update stays locked until the commit, so numbers rise in the order of commits
 * without gaps, the audit log is one chain, and use is compared with the quota by one transaction at a time. For the same
 * reason it has to be the transaction's last statement: whoever writes gathers in a `Head` what belongs there, and
 * `transact` writes it down after everything else, in one message with the commit.
 *
 * The advisory lock is the queue: those who wait for a row that is updated all wake at each commit, those who wait for a
 * lock one by one.
 */
import type { AuditEntry } from '../audit/entry.ts'
import type { Query, Transaction } from '../db/database.ts'
import type { Deps, Principal } from '../deps.ts'
import { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import {
  effectiveQuotas,
  fittingPlans,
  lackingQuota,
  nothingUsed,
  QUOTA_NAMES,
  type Quotas,
  type Use,
} from '../lib/quota.ts'
import type { Random } from '../lib/random.ts'
import type { EventType } from './catalog.ts'
import { queueDeliveries } from './deliveries.ts'

/** One event to be written. */
export type NewEvent = {
  /** Where it has to be known beforehand; else it is made. */
  id?: string
  type: EventType
  resource_id: string
  request_id: string | null
  /** `object` is the resource as the API shows it, at the commit, with its type. */
  data: { object: { object: 'instance' | 'webhook' }; previous?: object; details?: object }
}

/** What the transaction's last statement will write. */
export type Outbox = { events: NewEvent[]; audit: AuditEntry | null; use: Use }

/** Whose environment it is. */
export type Owner = Pick<Principal, 'environment_id' | 'mode'>

type Context = Pick<Deps, 'sql' | 'random' | 'config' | 'notifier'>

/** SQLSTATE of refuse_over_quota(). */
const OVER_QUOTA = 'CN001'

/** Ends a transaction that was only a rehearsal. */
class DryRunEnd extends Error {}

/**
 * Runs a transaction of one environment and writes its head last. Throws `capacity_exhausted` with the scope `quota`
 * when more would be used than the project may.
 * @param options.dry_run does everything but the commit: what would have come out is answered, and nothing is changed
 */
export async function withOutbox<T>(
  deps: Context,
  owner: Owner,
  body: (tx: Transaction, outbox: Outbox) => Promise<T>,
  options: { dry_run?: boolean } = {},
): Promise<T> {
  let preview: T | undefined
  let use = nothingUsed()
  let told = 0
  try {
    const result = await deps.sql.as(owner.environment_id).begin(async (tx): Promise<T> => {
      const outbox: Outbox = { events: [], audit: null, use: nothingUsed() }
      const result = await body(tx, outbox)
      use = outbox.use
      told = outbox.events.length
      const last = flush(tx, deps, owner, outbox)
      if (!options.dry_run) {
        if (last) tx.commitWith(last)
        return result
      }
      await last
      preview = result
      throw new DryRunEnd()
    })
    if (told > 0) {
      deps.notifier.changed(owner.environment_id)
      deps.notifier.announce()
    }
    return result
  } catch (error) {
    if (error instanceof DryRunEnd) return preview as T
    if ((error as { code?: string }).code !== OVER_QUOTA) throw error
    throw await quotaExhausted(deps.sql.as(owner.environment_id), deps, owner, use)
  }
}

/**
 * Takes the environment's turn before its last statement does. Needed by who wakes a webhook in a transaction that has a
 * head: that statement wakes webhooks, too, and with the two locks in another order both could wait for each other.
 */
export async function lockEnvironment(tx: Transaction, environmentId: string): Promise<void> {
  await tx`select pg_advisory_xact_lock(hashtextextended(${environmentId}, 0))`
}

/** The statement that writes the head; null where nothing belongs there. */
function flush(tx: Transaction, deps: Context, owner: Owner, { events, audit, use }: Outbox) {
  const { environment_id } = owner
  const changes = QUOTA_NAMES.some((name) => use[name] !== 0)
  if (events.length === 0 && audit === null && !changes) return null
  const quotas = deps.config.quotas[owner.mode]
  return tx`
    with head as (
      update environment_heads h set sequence = h.sequence + ${events.length}::bigint
        ${changes ? addUse(tx, use) : tx``}
        ${audit ? tx`, audit_sequence = h.audit_sequence + 1, audit_hash = sha256(h.audit_hash || ${audit.digest}::bytea)` : tx``}
      from (select pg_advisory_xact_lock(hashtextextended(${environment_id}, 0))) as turn
      where h.environment_id = ${environment_id} ${changes ? withinQuota(tx, quotas, use) : tx``}
      returning h.sequence, h.audit_sequence, h.audit_hash, h.webhooks, environment_now(${environment_id}) as now
    )
    ${events.length > 0 ? insertEvents(tx, deps.random, environment_id, events) : tx``}
    ${audit ? insertEntry(tx, environment_id, audit) : tx``}
    select case when not exists (select from head) then refuse_over_quota()
      ${events.length > 0 ? queueDeliveries(tx, environment_id) : tx``} else 1 end`
}

function addUse(tx: Query, use: Use) {
  return tx`, used_instances = used_instances + ${use.instances}::bigint, used_vcpus = used_vcpus + ${use.vcpus}::bigint,
    used_memory_bytes = used_memory_bytes + ${use.memory_bytes}::bigint,
    used_disk_bytes = used_disk_bytes + ${use.disk_bytes}::bigint,
    used_public_ips = used_public_ips + ${use.public_ips}::bigint`
}

/** What `lackingQuota` says, as a condition. The names are ours. */
function withinQuota(tx: Query, configured: Partial<Quotas>, use: Use) {
  const conditions = QUOTA_NAMES.filter((name) => use[name] > 0).map(
    (name) => tx`
      and h.${tx(`used_${name}`)} + ${use[name]}::bigint <= coalesce(
        case when h.quota ? ${name} then (h.quota ->> ${name})::bigint else ${configured[name] ?? null}::bigint end,
        9223372036854775807)`,
  )
  return conditions.reduce((all, condition) => tx`${all}${condition}`, tx``)
}

function insertEvents(tx: Query, random: Random, environmentId: string, events: NewEvent[]) {
  const column = <K extends keyof NewEvent>(name: K) => events.map((event) => event[name])
  return tx`, told as (
    insert into events (environment_id, sequence, id, type, resource_type, resource_id, request_id, created_at, data)
    select ${environmentId}, head.sequence - ${events.length}::bigint + e.number, e.id, e.type, e.resource_type,
      e.resource_id, e.request_id, head.now, e.data::json
    from head, unnest(${events.map(({ id }) => id ?? newId('evt', random))}::text[], ${column('type')}::text[],
      ${events.map(({ data }) => data.object.object)}::text[], ${column('resource_id')}::text[],
      ${column('request_id')}::text[], ${events.map(({ data }) => JSON.stringify(data))}::text[])
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

/** The refusal, in the figures that held while the head was locked for others: they may have moved on since. */
async function quotaExhausted(tx: Query, deps: Context, owner: Owner, use: Use): Promise<ApiError> {
  const { used, quotas } = await readUse(tx, deps, owner)
  const name = lackingQuota(quotas, used, use) ?? QUOTA_NAMES.find((each) => use[each] > 0)!
  const limit = quotas[name]
  const detail = `The project may use ${limit} ${name} and uses ${used[name]}; this needs ${use[name]} more. Terminate an instance, or ask the operator for a larger quota.`
  return new ApiError('capacity_exhausted', detail, {
    extensions: {
      scope: 'quota',
      resource: name,
      limit,
      used: used[name],
      retryable: true,
      alternatives: fittingPlans(deps.config.plans, quotas, used),
    },
  })
}

/** What an environment uses and may use. */
export async function readUse(
  query: Query,
  deps: Pick<Deps, 'config'>,
  { environment_id, mode }: Owner,
): Promise<{ used: Use; quotas: Quotas }> {
  const [head] = await query<(Use & { quota: Partial<Quotas> })[]>`
    select used_instances as instances, used_vcpus as vcpus, used_memory_bytes as memory_bytes,
      used_disk_bytes as disk_bytes, used_public_ips as public_ips, quota
    from environment_heads where environment_id = ${environment_id}`
  const { quota, ...used } = head!
  return { used, quotas: effectiveQuotas(deps.config.quotas[mode], quota) }
}
