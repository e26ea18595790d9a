/** The invariants I1 to I8 of the reliability requirements, as far as rows and witnesses show them. */
import type { Query } from '../db/database.ts'
import { TEST_CAPACITY } from '../http/testing.ts'
import { footprint } from '../lib/capacity.ts'
import { expectedEvents, isTransition } from '../testing/expected-events.ts'
import type { Witness } from './database.ts'
import { UNSIMULATED_KINDS } from './worker.ts'

export type Violation = { invariant: string; what: string }

/**
 * I5 and I6: each change of an instance is allowed, raises its version by one, and has exactly its events in the same
 * transaction; no event is without its change. Pure.
 * @param witnesses everything that was committed since the last time, in order
 */
export function changesAndEvents(witnesses: readonly Witness[]): Violation[] {
  const found: Violation[] = []
  const report = (invariant: string, what: string) => found.push({ invariant, what })
  const isOfInstance = ({ what, is }: Witness) =>
    what === 'instance' || (what === 'event' && is.startsWith('instance.'))
  const transactions = Map.groupBy(witnesses.filter(isOfInstance), ({ xid, resource_id }) => `${xid} ${resource_id}`)
  for (const own of transactions.values()) {
    const id = own[0]!.resource_id
    const changes = own.filter(({ what }) => what === 'instance')
    for (const { before, after } of changes) checkVersion(report, id, before, after!)
    const expected = changes.flatMap(({ before, after }) =>
      expectedEvents(before, after!).map((type) => `${type} ${after!.version}`),
    )
    const emitted = own.filter(({ what }) => what === 'event').map(({ is, version }) => `${is} ${version}`)
    if (String(expected) === String(emitted)) continue
    const statuses = [changes[0]?.before?.status ?? 'none', ...changes.map(({ is }) => is)].join(' → ')
    report(
      'I6',
      `${id}: ${statuses}: expected ${expected.join(', ') || 'no event'}, emitted ${emitted.join(', ') || 'none'}`,
    )
  }
  return found
}

function checkVersion(
  report: (invariant: string, what: string) => void,
  id: string,
  before: Witness['before'],
  after: NonNullable<Witness['after']>,
): void {
  if (!before) return
  const [from, to] = [before.status, after.status]
  if (!isTransition(from, to)) report('I5', `${id}: ${from} → ${to} is not allowed`)
  const isChanged = from !== to || after.version !== before.version
  if (isChanged && after.version !== before.version + 1) {
    report('I6', `${id}: ${from} → ${to} changed version ${before.version} to ${after.version}`)
  }
}

const { vcpus, memory_bytes, disk_bytes } = TEST_CAPACITY
const overhead = footprint({ vcpus: 0, memory_bytes: 0, disk_bytes: 0 }).memory_bytes

/** I2, I3, I6 (sequences) and I8 of the rows, in one statement. */
export async function rowsHold(owner: Query): Promise<Violation[]> {
  const rows = await owner<Violation[]>`
    with present as materialized (select * from instances where status <> 'terminated'),
    uses as (
      select present.id, present.environment_id, case when present.mode = 'live' then '' else present.environment_id end as world, ip, subnet_id, kind
      from present left join simulated_machines m using (id) join environments e on e.id = present.environment_id,
        lateral (values (private_ip, 'private'), (wanted_public_ip, 'public'), (observed_public_ip, 'public'),
          (case when simulated.is_on(machine, environment_now(e)) then (machine ->> 'public_ip')::inet end, 'public')
        ) as used(ip, kind)
      where ip is not null
    ),
    sums as (
      select environment_id, count(*) as instances, sum(wanted_vcpus) as vcpus, sum(wanted_memory_bytes) as memory_bytes,
        sum(wanted_disk_bytes) as disk_bytes, count(wanted_public_ip) as public_ips
      from present group by environment_id
    ),
    budgeted as (
      select b.id, count(p.id) as instances, coalesce(sum(p.wanted_vcpus), 0) as vcpus
      from budgets b left join budgets own on b.id = any(own.lineage) left join present p on p.budget_id = own.id
      group by b.id
    )
    select 'I2' as invariant, 'two instances have ' || host(ip) as what from uses where kind = 'public'
      group by world, ip having count(distinct id) > 1
    union all select 'I2', 'two instances have ' || host(ip) from uses where kind = 'private'
      group by environment_id, subnet_id, ip having count(distinct id) > 1
    union all select 'I2', 'two instances have ' || min(mac::text) from present
      group by environment_id, subnet_id, mac having count(*) > 1
    union all select 'I2', id || ' uses ' || host(ip) || ' and does not hold it' from uses u
      where not exists (select from addresses a where a.instance_id = u.id and a.address = u.ip)
    union all select 'I3', 'the use of ' || h.environment_id || ' is not the sum of its instances'
      from environment_heads h left join sums s using (environment_id)
      where (used_instances, used_vcpus, used_memory_bytes, used_disk_bytes, used_public_ips) is distinct from (
        coalesce(s.instances, 0), coalesce(s.vcpus, 0), coalesce(s.memory_bytes, 0), coalesce(s.disk_bytes, 0),
        coalesce(s.public_ips, 0))
    union all select 'I3', h.environment_id || ' uses more than its quota' from environment_heads h
      where used_instances > (quota ->> 'instances')::bigint or used_vcpus > (quota ->> 'vcpus')::bigint
        or used_public_ips > (quota ->> 'public_ips')::bigint
    union all select 'I3', 'the budget ' || b.id || ' is not the sum of its instances' from budgets b join budgeted s using (id)
      where b.used_instances <> s.instances or b.used_vcpus <> s.vcpus
    union all select 'I3', 'the budget ' || id || ' is exceeded' from budgets
      where used_instances > max_instances or used_vcpus > max_vcpus
    union all select 'I3', 'the reservations exceed the capacity of the host' from present where mode = 'live'
      having sum(wanted_vcpus) > ${vcpus} or sum(wanted_memory_bytes + ${overhead}) > ${memory_bytes}
        or sum(wanted_disk_bytes) > ${disk_bytes}
    union all select 'I6', 'the events of ' || h.environment_id || ' have a gap'
      from environment_heads h left join (
        select environment_id, count(*) as number, max(sequence) as last from events group by environment_id
      ) e using (environment_id)
      where h.sequence <> coalesce(e.number, 0) or h.sequence <> coalesce(e.last, 0)
    union all select 'I8', a.instance_id || ' does not exist and holds ' || host(a.address) from addresses a
      where not exists (select from present p where p.id = a.instance_id)
    union all select 'I8', id || ' is terminated and has its user data' from instances
      where status = 'terminated' and user_data is not null
    union all select 'I7', s.id || ' belongs to another environment than its instance' from simulated_machines s
      join instances i using (id) where i.environment_id <> s.environment_id`
  return [...rows]
}

/** Differences from the desired state, after faults have stopped. */
export async function unsettled(owner: Query): Promise<Violation[]> {
  const rows = await owner<Violation[]>`
    select 'liveness' as invariant, format('%s is %s (desired: %s; observed: %s; reason: %s; machine: %s)', i.id, i.status,
      case when wanted_gone or observed_expired then 'gone' else wanted_power end, observed_power, status_reason, machine) as what
    from instances i left join simulated_machines m using (id) join environments e on e.id = i.environment_id,
      lateral (select simulated.is_on(machine, environment_now(e)) as is_on) as now
    where not case
      when wanted_gone or observed_expired then status = 'terminated'
      when wanted_power = 'stopped' then status = 'stopped' and not is_on
      when status = 'failed' then status_reason is not null
      when status = 'stopped' then not is_on
      else status = 'running' and is_on
        and (machine ->> 'public_ip') is not distinct from host(wanted_public_ip)
        and (machine ->> 'run')::integer = wanted_run + observed_recoveries
        and (machine ->> 'vcpus')::integer = wanted_vcpus
    end
    union all
    select 'liveness', format('%s %s is due or leased (%s attempts: %s)', kind, id, attempts, last_error) from work
    where not kind = any(${UNSIMULATED_KINDS}) and (attempts > 0 or leased_until is not null
      or due_at <= (select environment_now(e) from environments e where e.id = work.environment_id))
    union all
    select 'liveness', i.id || ' has no work row' from instances i
    where not exists (select from work w where w.kind = 'instance' and w.id = i.id)`
  return [...rows]
}

/** What exists without a row after two sweeps. */
export async function leaks(owner: Query): Promise<Violation[]> {
  const rows = await owner<Violation[]>`
    select 'I8' as invariant, 'the machine ' || id || ' has no instance' as what from simulated_machines m
    where not exists (select from instances i where i.id = m.id and i.status <> 'terminated')
    union all
    select 'I8', kind || ' ' || id || ' has a work row and no resource' from work w
    where kind = 'instance' and not exists (select from instances i where i.id = w.id)
    union all
    select 'I8', 'two instances were created as ' || name from instances group by environment_id, name having count(*) > 1`
  return [...rows]
}
