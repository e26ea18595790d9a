/** All SQL statements on instances. Each write is one transaction: row, events, wake. */

import { releaseAddresses } from '../addresses/store.ts'
import { releaseBudget } from '../budgets/store.ts'
import type { Query, Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { ObservedMachine } from '../drivers/driver.ts'
import { record } from '../engine/record.ts'
import type { Claim } from '../engine/work.ts'
import type { Outbox } from '../events/outbox.ts'
import { isSameJson } from '../lib/canonical-json.ts'
import { difference } from '../lib/difference.ts'
import { addDifference, nothingUsed, useOf } from '../lib/quota.ts'
import { detailsOf } from './event-details.ts'
import { type Observed, observed } from './observe.ts'
import { present, TERMINATED_TTL_SECONDS } from './present.ts'
import { hasRecoverySlot, wakeWaitingForSlot, writeRecovery } from './recoveries.ts'
import { needsRecoverySlot, openRecovery, recoveryAfter } from './recovery.ts'
import type { InstanceRow } from './row.ts'
import { eventsOf, sizeUnderWay, statusOf } from './status.ts'
import { requestOf } from './trace.ts'

/** The outbox of a write, for its events, wakes and quota usage; see `withOutbox`. */
export type InstanceContext = Pick<Deps, 'config'> & { outbox: Outbox }

/** Wakes the instance's reconciler when the transaction commits. */
export function wakeInstance(outbox: Outbox, { id, environment_id }: { id: string; environment_id: string }): void {
  outbox.wakes.push({ kind: 'instance', id, environment_id })
}

/** Reads a row without locking it. Null when the environment has none, or it was terminated more than 24 hours ago. */
export async function find(query: Query, environmentId: string, id: string): Promise<InstanceRow | null> {
  const [row] = await query<InstanceRow[]>`
    select * from instances where id = ${id} and environment_id = ${environmentId}
      and (terminated_at is null
        or terminated_at > environment_now(${environmentId}) - make_interval(secs => ${TERMINATED_TTL_SECONDS}))`
  return row ?? null
}

/** Reads a row by its ID alone, for the engine. */
export async function load(query: Query, id: string): Promise<InstanceRow | null> {
  const [row] = await query<InstanceRow[]>`select * from instances where id = ${id}`
  return row ?? null
}

/** Locks and reads the row, with the environment's time. */
export async function lock(
  tx: Transaction,
  environmentId: string,
  id: string,
): Promise<{ row: InstanceRow; now: Date } | null> {
  const [found] = await tx<(InstanceRow & { now: Date })[]>`
    select *, environment_now(environment_id) as now from instances
    where id = ${id} and environment_id = ${environmentId} for update`
  if (!found) return null
  const { now, ...row } = found
  return { row, now }
}

/** The columns of a new row, without those that are derived. */
export type NewRow = Omit<InstanceRow, 'ordinal' | 'status' | 'status_reason' | 'version'>

/** Inserts rows in one statement: computes their status, wakes their reconcilers and emits `instance.created`. */
export async function insertRows(
  tx: Transaction,
  context: InstanceContext,
  fields: readonly NewRow[],
): Promise<InstanceRow[]> {
  if (fields.length === 0) return []
  const rows = fields.map((each) => {
    const row = { ...each, ordinal: 0, status: 'provisioning' as const, status_reason: null, version: 1 }
    return { ...row, ...statusOf(row) }
  })
  const { ordinal: _, ...first } = rows[0]!
  const columns = Object.keys(first)
    .map((name) => tx`${tx(name)}`)
    .reduce((all, column) => tx`${all}, ${column}`)
  const inserted = await tx<{ id: string; ordinal: number }[]>`
    insert into instances (${columns})
    select ${columns} from json_populate_recordset(null::instances, ${tx.json(rows.map(toJson))}::json)
    returning id, ordinal`
  const ordinals = new Map(inserted.map(({ id, ordinal }) => [id, ordinal]))
  return rows.map((row) => {
    const made = { ...row, ordinal: ordinals.get(row.id)! }
    wakeInstance(context.outbox, made)
    emitDifference(context, null, made, made.wanted_request_id)
    return made
  })
}

/** A row as JSON that PostgreSQL can parse: bytes as hexadecimal text. */
const toJson = (row: InstanceRow) => {
  const { user_data } = row
  return { ...row, user_data: user_data && `\\x${Buffer.from(user_data).toString('hex')}` }
}

/**
 * Updates a locked row; all changes go through here. Computes the public status, increments the version when the API
 * representation changes, writes the record of recoveries, and emits the events of the change. Called for desired changes
 * and by `observe`.
 * @param requestId the `request_id` of the events: the current request, or the one that wrote the desired state
 */
export async function save(
  tx: Transaction,
  context: InstanceContext,
  before: InstanceRow,
  changes: Partial<InstanceRow>,
  now: Date,
  requestId: string | null = before.wanted_request_id,
): Promise<InstanceRow> {
  const changed = { ...before, ...changes }
  const after = { ...changed, ...statusOf(changed) }
  after.recovery = recoveryAfter(before, after, now)
  after.wanted_size_before = sizeUnderWay(after)
  const differs = !isSameJson(present(before, context.config), present(after, context.config))
  if (differs) Object.assign(after, { version: before.version + 1, updated_at: now })
  const columns: Record<string, unknown> = Object.fromEntries(
    Object.entries(after).filter(([name, value]) => !isSameJson(before[name as keyof InstanceRow], value)),
  )
  if (Object.keys(columns).length === 0) return before
  if ('observed_ports' in columns) columns.observed_ports = tx.json(after.observed_ports)
  await tx`update instances set ${tx(columns)} where id = ${before.id}`
  if (after.recovery && 'recovery' in columns) await writeRecovery(tx, after, after.recovery)
  if (openRecovery(before) && !openRecovery(after)) await wakeWaitingForSlot(tx, context.outbox, before)
  emitDifference(context, before, after, requestId)
  return after
}

/**
 * Terminates all instances of an environment, also protected ones, because its project is being deleted.
 * @param requestId null when no request caused it
 */
export async function terminateAll(
  tx: Transaction,
  context: InstanceContext,
  environmentId: string,
  requestId: string | null,
): Promise<void> {
  const rows = await tx<(InstanceRow & { now: Date })[]>`
    select *, environment_now(environment_id) as now from instances
    where environment_id = ${environmentId} and not wanted_gone and status <> 'terminated' order by id for update`
  for (const { now, ...row } of rows) {
    wakeInstance(context.outbox, row)
    const change = { wanted_gone: true, wanted_at: now, wanted_request_id: requestId }
    await save(tx, context, row, change, now, requestId)
  }
}

/** Adds the events of a change and the change of quota usage to the outbox. */
function emitDifference(
  { config, outbox }: InstanceContext,
  before: InstanceRow | null,
  after: InstanceRow,
  requestId: string | null,
): void {
  addDifference(outbox.use, before ? useOf(before) : nothingUsed(), useOf(after))
  const types = eventsOf(before, after)
  if (types.length === 0) return
  const shown = present(after, config)
  const previous = before && difference(present(before, config), shown).before
  for (const type of types) {
    const details = detailsOf(type, before, after)
    outbox.events.push({
      type,
      resource_id: after.id,
      // No request causes a recovery.
      request_id: type === 'instance.recovering' || type === 'instance.recovered' ? null : requestId,
      data: { object: { object: 'instance', ...shown }, ...(previous && { previous }), ...(details && { details }) },
    })
  }
}

/**
 * Records the observed state, fenced by the lease of the claim. `decide` gets the row with the new observed state and can
 * change further columns (a problem, the termination). All changes are one transaction, so clients see all or none.
 * The second argument of `decide` is whether the instance has a recovery slot, or needs none.
 */
export async function observe<T>(
  deps: Deps,
  claimed: Claim,
  machine: ObservedMachine | null,
  decide: (row: InstanceRow, hasSlot: boolean) => { result: T; changes: Partial<Observed>; terminated?: boolean },
): Promise<T | null> {
  const evaluate = async (query: Query, row: InstanceRow) => {
    const seen = { ...row, ...observed(row, machine, claimed.now) }
    const decided = decide(seen, !needsRecoverySlot(seen, machine) || (await hasRecoverySlot(query, seen, deps.config)))
    return { ...decided, next: { ...seen, ...decided.changes } }
  }
  // Most passes observe no change. They take no lock and write nothing.
  const known = await load(deps.sql, claimed.id)
  if (!known) return null
  const first = await evaluate(deps.sql, known)
  if (!first.terminated && isSameJson(known, first.next)) return first.result
  const lockRow = async (tx: Transaction) => (await lock(tx, claimed.environment_id, claimed.id))?.row ?? null
  return record(deps, claimed, lockRow, async (tx, outbox, row) => {
    const { next, terminated, result } = await evaluate(tx, row)
    const end = terminated ? { terminated_at: claimed.now, user_data: null } : {}
    if (terminated) await releaseAll(tx, row)
    else if (next.observed_public_ip !== row.observed_public_ip) await releaseUnused(tx, next)
    const context = { config: deps.config, outbox }
    await save(tx, context, row, { ...next, ...end }, claimed.now, requestOf(row))
    return result
  })
}

/** Releases the instance's addresses and its share of a budget. */
async function releaseAll(tx: Transaction, row: InstanceRow): Promise<void> {
  await releaseAddresses(tx, row.id)
  await releaseBudget(tx, row.budget_id, { instances: 1, vcpus: row.wanted_vcpus })
}

/** Releases public addresses that are in neither the desired nor the observed state. */
async function releaseUnused(query: Query, row: InstanceRow): Promise<void> {
  const kept = [row.private_ip, row.wanted_public_ip, row.observed_public_ip].filter((ip) => ip !== null)
  await query`delete from addresses where instance_id = ${row.id} and not address = any(${kept}::inet[])`
}

/** Deletes the row of an instance whose time-to-live after termination has passed. */
export async function purge(query: Query, id: string): Promise<void> {
  await query`delete from instances where id = ${id} and status = 'terminated'`
}

/** Wakes the instances of all tenants that wait for this image; called when its import has succeeded or failed. */
export async function wakeInstancesWaitingForImage(tx: Transaction, outbox: Outbox, imageId: string): Promise<void> {
  for (const row of await tx<{ id: string; environment_id: string }[]>`
    select id, environment_id from instances_waiting_for_image(${imageId})`) {
    wakeInstance(outbox, row)
  }
}

/**
 * Seconds from the request until the guest was ready, of the last 50 instances of this image in the environment, in its
 * own time. Null when there are none.
 */
export async function readReadyTimes(
  query: Query,
  environmentId: string,
  imageId: string,
): Promise<{ p50: number; p90: number; samples: number } | null> {
  const [row] = await query<{ p50: number | null; p90: number; samples: number }[]>`
    select percentile_cont(0.5) within group (order by seconds) as p50,
      percentile_cont(0.9) within group (order by seconds) as p90, count(*) as samples
    from (
      select extract(epoch from ready_at - created_at)::float8 as seconds from instances
      where environment_id = ${environmentId} and image_id = ${imageId} and ready_at is not null and wanted_disk = 1
      order by ordinal desc limit 50
    ) as recent`
  return row!.p50 === null ? null : { p50: row!.p50, p90: row!.p90, samples: row!.samples }
}
