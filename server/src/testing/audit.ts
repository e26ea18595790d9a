/**
 * The audit: checks the state of an environment in which no key is due. Each finding is one line that names what leaked or
 * what differs from the API's promises.
 */
import type { Query, Sql } from '../db/database.ts'
import { type InstanceRow, runOf } from '../instances/row.ts'
import { expectedEvents, isTransition } from './expected-events.ts'
import { type Change, changesOf, launchesOf, lostWakesOf } from './probes.ts'
import { until } from './until.ts'

type Part = (owner: Query, environmentId: string, since?: number) => Promise<string[]>

/** All findings in one environment, in which nothing runs. */
export async function audit(owner: Sql, environmentId: string): Promise<string[]> {
  const parts = [machines, work, responses, auditLedgers]
  return (await Promise.all(parts.map((part) => part(owner, environmentId)))).flat()
}

/** The parts that hold in every snapshot and for every driver; they need the probes. */
export const LEDGERS: Record<'addresses' | 'sums' | 'events' | 'launches' | 'wakes', Part> = {
  addresses,
  sums,
  events,
  launches,
  wakes,
}

async function auditLedgers(owner: Sql, environmentId: string): Promise<string[]> {
  return (await Promise.all(Object.values(LEDGERS).map((part) => part(owner, environmentId)))).flat()
}

type Machine = { power: string; disk: number; run: number; public_ip: string | null; vcpus: number; disk_bytes: number }

/** I8: each machine has a row, and matches its desired state. */
async function machines(owner: Sql, environmentId: string): Promise<string[]> {
  const rows = await owner<(InstanceRow & { machine: Machine | null })[]>`
    select i.*, m.machine || case
      when least(m.machine ->> 'off_at', m.machine ->> 'crash_at')::timestamptz <= environment_now(i.environment_id)
      then '{"power":"off"}'::jsonb else '{}' end as machine from instances i left join simulated_machines m on m.id = i.id
    where i.environment_id = ${environmentId}`
  const orphans = await owner<{ id: string }[]>`
    select id from simulated_machines where environment_id = ${environmentId}
      and id not in (select id from instances where terminated_at is null)`
  return [
    ...orphans.map(({ id }) => `${id}: a machine without a row`),
    ...rows.flatMap((row) => machineFaults(row).map((fault) => `${row.id}: ${fault}`)),
  ]
}

function machineFaults(row: InstanceRow & { machine: Machine | null }): string[] {
  const { machine, status } = row
  if (row.terminated_at) return []
  const faults: string[] = []
  const check = (name: string, observed: unknown, desired: unknown) => {
    if (observed !== desired) faults.push(`${status}, and ${name} is ${observed} instead of ${desired}`)
  }
  if (status === 'stopped' && machine?.power === 'running') faults.push('stopped, and its machine runs')
  if (status === 'stopped' || status === 'running') check('the disk', machine?.disk_bytes, row.wanted_disk_bytes)
  if (status !== 'running') return faults
  check('the power', machine?.power, 'running')
  check('the run', machine?.run, runOf(row))
  check('the disk number', machine?.disk, row.wanted_disk)
  check('the size', machine?.vcpus, row.wanted_vcpus)
  check('the public address', machine?.public_ip, row.wanted_public_ip)
  return faults
}

/** I2: the reserved addresses are those of the rows. The primary key guarantees that no two rows share one. */
async function addresses(owner: Query, environmentId: string): Promise<string[]> {
  const rows = await owner<{ id: string; address: string; reserved: boolean }[]>`
    with held as (
      select id, ip::inet as address from instances cross join unnest(array[private_ip, wanted_public_ip]) as ip
      where environment_id = ${environmentId} and terminated_at is null and ip is not null),
    reserved as (
      select instance_id as id, address from addresses where environment_id = ${environmentId})
    select coalesce(h.id, r.id) as id, host(coalesce(h.address, r.address)) as address, r.id is not null as reserved
    from held h full join reserved r using (id, address) where h.id is null or r.id is null`
  return rows.map(({ id, address, reserved }) =>
    reserved ? `${id}: ${address} is still reserved` : `${id}: ${address} is not reserved`,
  )
}

/** I3: the usage of quotas and budgets is the sum of the rows. */
async function sums(owner: Query, environmentId: string): Promise<string[]> {
  const [usage] = await owner<{ used: number[]; sum: number[] }[]>`
    select array[h.used_instances, h.used_vcpus, h.used_memory_bytes, h.used_disk_bytes, h.used_public_ips,
        h.used_images, h.used_image_bytes]::float8[] as used,
      array[count(i.id), coalesce(sum(i.wanted_vcpus), 0), coalesce(sum(i.wanted_memory_bytes), 0),
        coalesce(sum(i.wanted_disk_bytes), 0), count(i.wanted_public_ip),
        (select count(*) from images m where m.environment_id = h.environment_id and not m.wanted_gone),
        (select coalesce(sum(m.reserved_bytes), 0) from images m where m.environment_id = h.environment_id)]::float8[] as sum
    from environment_heads h left join instances i on i.environment_id = h.environment_id and i.terminated_at is null
    where h.environment_id = ${environmentId} group by h.environment_id`
  const budgets = await owner<{ id: string; used: number[]; sum: number[] }[]>`
    select b.id, array[b.used_instances, b.used_vcpus] as used,
      array[count(i.id), coalesce(sum(i.wanted_vcpus), 0)]::int[] as sum
    from budgets b left join budgets inner_ on b.id = any(inner_.lineage)
      left join instances i on i.budget_id = inner_.id and i.terminated_at is null
    where b.environment_id = ${environmentId} group by b.id`
  return [{ id: 'the quota', ...usage! }, ...budgets]
    .filter(({ used, sum }) => String(used) !== String(sum))
    .map(({ id, used, sum }) => `the usage of ${id} is ${used}, and the sum of the rows is ${sum}`)
}

/** No key is leased, due or failing, and no resource lacks its key. */
async function work(owner: Sql, environmentId: string): Promise<string[]> {
  const rows = await owner<{ kind: string; id: string; what: string }[]>`
    select kind, id, case when leased_until is not null then 'is still leased'
      when last_error is not null or attempts > 0 then 'is failing: ' || coalesce(last_error, '') else 'is due' end as what
    from work w where environment_id = ${environmentId} and (leased_until is not null or last_error is not null
      or attempts > 0 or due_at <= environment_now(w.environment_id))
    union all
    select 'instance', id, 'has no key' from instances where environment_id = ${environmentId}
      and not exists (select from work w where w.kind = 'instance' and w.id = instances.id)
    union all
    select 'recovery', r.instance_id, 'has no end' from recoveries r join instances i on i.id = r.instance_id
    where r.environment_id = ${environmentId} and r.ended_at is null and i.status <> 'recovering'
    union all
    select 'delivery', webhook_id, 'is pending' from webhook_deliveries
    where environment_id = ${environmentId} and status = 'pending'`
  return rows.map(({ kind, id, what }) => `${id}: its ${kind} key ${what}`)
}

const LOCK_SECONDS = 10

const advisoryLocks = async (owner: Sql): Promise<number> =>
  (
    await owner`select from pg_locks where locktype = 'advisory'
      and database = (select oid from pg_database where datname = current_database())`
  ).count

/** I4: an Idempotency-Key has a stored response or is unknown; none is locked. */
async function responses(owner: Sql, environmentId: string): Promise<string[]> {
  const open = await owner<{ key: string }[]>`
    select key from idempotency_keys where environment_id = ${environmentId} and (status is null or headers is null)`
  // A transaction in the background may hold one for a moment.
  const isFree = async () => (await advisoryLocks(owner)) === 0
  const remain = await until('no advisory lock is held', isFree, LOCK_SECONDS).then(
    () => 0,
    () => advisoryLocks(owner),
  )
  return [
    ...open.map(({ key }) => `the Idempotency-Key ${key} has no response`),
    ...Array.from({ length: remain }, () => 'an advisory lock is held'),
  ]
}

type EmittedEvent = { id: string; type: string; sequence: number; version: number }

/**
 * I5, I6: each change of a status is allowed, each change has exactly its events, and no number has a gap. Holds in every
 * snapshot.
 * @param since only instances that changed after the change of this number
 */
async function events(owner: Query, environmentId: string, since = 0): Promise<string[]> {
  const emitted = await owner<EmittedEvent[]>`
    select resource_id as id, type, sequence, (data -> 'object' ->> 'version')::int as version from events
    where environment_id = ${environmentId} and resource_type = 'instance'
      and (${since}::bigint = 0 or resource_id in (select id from probed_changes where n > ${since})) order by sequence`
  const [head] = await owner<{ sequence: number; events: number; audited: number; entries: number }[]>`
    select h.sequence, (select count(*) from events e where e.environment_id = h.environment_id) as events,
      h.audit_sequence as audited, (select count(*) from audit_log a where a.environment_id = h.environment_id) as entries
    from environment_heads h where h.environment_id = ${environmentId}`
  const { sequence, audited, entries } = head!
  const findings = [
    ...(sequence === head!.events ? [] : [`the last number is ${sequence}, and there are ${head!.events} events`]),
    ...(audited === entries ? [] : [`the audit log's last number is ${audited}, and there are ${entries} entries`]),
  ]
  const changes = groupById(await changesOf(owner, environmentId, since))
  const events = groupById(emitted)
  for (const [id, own] of changes) {
    findings.push(...changeFaults(own).map((fault) => `${id}: ${fault}`))
    const expected = own.flatMap(({ before, after }) =>
      after ? expectedEvents(before, after).map((type) => `${type} ${after.version}`) : [],
    )
    const found = (events.get(id) ?? []).map(({ type, version }) => `${type} ${version}`)
    if (String(expected) !== String(found))
      findings.push(`${id}: expected ${expected.join(', ') || 'no event'}, emitted ${found.join(', ') || 'none'}`)
  }
  for (const id of events.keys()) if (!changes.has(id)) findings.push(`${id}: events without a row`)
  return findings
}

function changeFaults(changes: Change[]): string[] {
  return changes.flatMap(({ before, after }) => {
    if (!before || !after) return []
    const faults: string[] = []
    const [from, to] = [before.status, after.status]
    if (!isTransition(from, to)) faults.push(`${from} → ${to} is not allowed`)
    const step = after.version - before.version
    if (step !== (from === to ? Math.min(1, Math.max(0, step)) : 1)) faults.push(`its version rose by ${step}`)
    return faults
  })
}

/** I1: no run is started twice, and none while another one is on. */
async function launches(owner: Query, environmentId: string): Promise<string[]> {
  const all = await launchesOf(owner, environmentId)
  const seen = new Set<string>()
  return all.flatMap(({ id, run, replaced }) => {
    const name = `${id}: run ${run}`
    const again = seen.has(name)
    seen.add(name)
    return [
      ...(again ? [`${name} was started twice`] : []),
      ...(replaced ? [`${name} was started while another one was on`] : []),
    ]
  })
}

/** A key that was woken during a pass is due immediately. */
async function wakes(owner: Query, environmentId: string): Promise<string[]> {
  const lost = await lostWakesOf(owner, environmentId)
  return lost.map(
    ({ kind, id, lease, gone }) =>
      `${id}: its ${kind} key was woken during pass ${lease} and ${gone ? 'is deleted' : 'is not due'}`,
  )
}

function groupById<T extends { id: string }>(items: T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) groups.set(item.id, [...(groups.get(item.id) ?? []), item])
  return groups
}
