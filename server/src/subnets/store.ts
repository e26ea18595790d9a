import type { Static } from 'typebox'
import type { Query, Sql, Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Outbox } from '../events/outbox.ts'
import { checkIfMatch } from '../http/etag.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError, type FieldError, notFound, validationFailed } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import { timestamp } from '../lib/timestamp.ts'
import { cidrError } from './cidr.ts'
import type { Subnet, SubnetCreate } from './schema.ts'

/** ID of the default subnet in every environment of every project. */
export const DEFAULT_SUBNET = 'sub_8f7e6d5c4b'
/**
 * Ranges of default subnets. Those of two environments can overlap, because each subnet is a separate network segment.
 * Simulated machines have no network, so the range of test environments is as large as a test can need.
 */
const DEFAULT_RANGES = { live: '10.77.0.0/16', test: '10.64.0.0/10' }

export type SubnetRow = {
  id: string
  environment_id: string
  ordinal: number
  region: string
  name: string
  /** Such as `10.1.0.0/24`. */
  range: string
  pool_id: string
  segment: number | null
  is_default: boolean
  created_at: Date
}

/** A row as the API returns it. */
export function showSubnet(row: SubnetRow): Static<typeof Subnet> {
  const { id, name, region, range, is_default } = row
  return { id, name, region, cidr: range, is_default, created_at: timestamp(row.created_at) }
}

export async function listSubnets(
  sql: Sql,
  environmentId: string,
  regions: string[] | null,
  window: Window,
): Promise<SubnetRow[]> {
  const filter = regions ? sql`and region = any(${regions})` : sql``
  return sql<
    SubnetRow[]
  >`select * from subnets where environment_id = ${environmentId} ${filter} ${windowSql(sql, window)}`
}

/** Null if the environment has no subnet with this ID. */
export async function findSubnet(query: Query, environmentId: string, id: string): Promise<SubnetRow | null> {
  const [row] = await query<SubnetRow[]>`select * from subnets where environment_id = ${environmentId} and id = ${id}`
  return row ?? null
}

/** Throws `validation_failed`, or `conflict` for a range that overlaps another subnet of the environment. */
export async function createSubnet(
  tx: Transaction,
  outbox: Outbox,
  deps: Deps,
  principal: Principal,
  body: Static<typeof SubnetCreate>,
): Promise<SubnetRow> {
  const { environment_id, mode } = principal
  checkBody(deps, body)
  await tx`select pg_advisory_xact_lock(hashtextextended(${`subnets ${environment_id}`}, 0))`
  const [other] = await tx<SubnetRow[]>`
    select * from subnets where environment_id = ${environment_id} and range && ${body.cidr}::cidr limit 1`
  if (other) {
    const detail = `${body.cidr} overlaps ${other.range} of the subnet ${other.id}. Choose another range.`
    throw new ApiError('conflict', detail, { extensions: { conflicting_id: other.id } })
  }
  const id = newId('sub', deps.random)
  const pool = `subnet:${environment_id}:${id}`
  await tx`insert into address_pools (id, environment_id, range) values (${pool}, ${environment_id}, ${body.cidr})`
  const segment = mode === 'live' ? await freeSegment(tx) : null
  const [row] = await tx<SubnetRow[]>`
    insert into subnets (environment_id, id, region, name, range, pool_id, segment, created_at)
    values (${environment_id}, ${id}, ${body.region}, ${body.name}, ${body.cidr}, ${pool}, ${segment},
            environment_now(${environment_id}))
    returning *`
  outbox.use.subnets += 1
  return row!
}

/** Creates the default subnet of a region in an environment, unless it exists. */
export async function ensureDefaultSubnet(
  tx: Transaction,
  random: Random,
  { environment_id, mode }: Pick<Principal, 'environment_id' | 'mode'>,
  region: string,
): Promise<void> {
  const [known] = await tx`
    select 1 from subnets where environment_id = ${environment_id} and region = ${region} and is_default`
  if (known) return
  // Only one region can have the well-known ID; if the operator renames the region, its default subnet gets a new ID.
  const id = (await findSubnet(tx, environment_id, DEFAULT_SUBNET)) ? newId('sub', random) : DEFAULT_SUBNET
  const pool = `subnet:${environment_id}:${id}`
  await tx`insert into address_pools (id, environment_id, range)
    values (${pool}, ${environment_id}, ${DEFAULT_RANGES[mode]}) on conflict do nothing`
  const segment = mode === 'live' ? await freeSegment(tx) : null
  await tx`
    insert into subnets (environment_id, id, region, name, range, pool_id, segment, is_default, created_at)
    values (${environment_id}, ${id}, ${region}, 'default', ${DEFAULT_RANGES[mode]}, ${pool}, ${segment}, true,
      environment_now(${environment_id}))`
}

function checkBody(deps: Deps, body: Static<typeof SubnetCreate>): void {
  const errors: FieldError[] = []
  if (!deps.regions.some((region) => region.id === body.region)) {
    const message = `No region with the ID ${JSON.stringify(body.region)} exists. GET /v2/regions lists all regions.`
    errors.push({ pointer: '/region', code: 'unknown', message })
  }
  const error = cidrError(body.cidr)
  if (error) errors.push({ pointer: '/cidr', code: error.code, message: `cidr ${error.message}.` })
  if (errors.length > 0) throw validationFailed(errors)
}

/** A network segment of the host that no subnet of any tenant uses. */
async function freeSegment(query: Query): Promise<number> {
  const [free] = await query<{ segment: number | null }[]>`select free_subnet_segment() as segment`
  if (free?.segment) return free.segment
  const detail = 'Insufficient capacity for another private network on the host. Delete a subnet first.'
  throw new ApiError('capacity_exhausted', detail, {
    extensions: { scope: 'host', limit: 16_000, used: 16_000, retryable: true, alternatives: [] },
  })
}

/** Deletes a subnet and returns its row. Throws `not_found`, `conflict` for a default subnet, and `in_use`. */
export async function deleteSubnet(
  tx: Transaction,
  { environment_id }: Principal,
  id: string,
  ifMatch: string | undefined,
): Promise<SubnetRow> {
  // Waits for instances that are being created: their foreign key locks the row.
  const [row] = await tx<SubnetRow[]>`
    select * from subnets where environment_id = ${environment_id} and id = ${id} for update`
  if (!row) throw notFound('subnet', id)
  checkIfMatch(ifMatch, showSubnet(row))
  if (row.is_default) throw new ApiError('conflict', 'The default subnet of a region cannot be deleted.')
  const [held] = await tx<{ count: number; terminated: number }[]>`
    select count(*), count(*) filter (where status = 'terminated') as terminated
    from instances where environment_id = ${environment_id} and subnet_id = ${id}`
  if (held!.count > 0) throw inUse(held!.count, held!.terminated)
  await tx`delete from subnets where environment_id = ${environment_id} and id = ${id}`
  await tx`delete from addresses where pool_id = ${row.pool_id}`
  await tx`delete from address_pools where id = ${row.pool_id}`
  return row
}

function inUse(count: number, terminated: number): ApiError {
  const detail =
    count > terminated
      ? `The subnet contains ${count - terminated} instances. Terminate them first.`
      : 'Terminated instances of the subnet can be read for up to 24 hours. Retry after that.'
  return new ApiError('in_use', detail)
}
