/**
 * IP addresses. A row of `addresses` is the reservation, and its primary key keeps it unique.
 *
 * An allocation draws tickets from a sequence that no transaction locks, and inserts the addresses that the tickets point
 * to. So concurrent transactions take different addresses without waiting for each other, and an address is not reused
 * before a round of its range: clients that still send to its last holder do not reach the next one. Only in a range that
 * is nearly full, where tickets keep pointing to taken addresses, one transaction at a time searches for a gap. Only this
 * search decides that a pool is exhausted.
 *
 * A pool may be shared by all tenants. The transaction is bound to one of them and sees only its own addresses. The
 * primary key says whether the address of a ticket is taken, and `free_address()`, which sees all tenants, finds the gap.
 */
import type { Query, Transaction } from '../db/database.ts'

/** Addresses at the start of every range that no instance gets: the network's own and the gateway's. */
const FIRST_OFFSET = 2
/** Rounds of tickets before the search. */
const TICKET_ROUNDS = 16
/** Searches for one address. A concurrent ticket may take the gap that was found, but not so many times in a row. */
const MAX_SEARCHES = 1_000

/**
 * Reserves a free address of a pool for each of these instances, in the caller's transaction, whose tenant then holds it.
 * @returns the address of each instance by its ID, or null when the pool has too few: then the caller rolls back
 */
export async function allocateAddresses(
  tx: Transaction,
  poolId: string,
  instanceIds: readonly string[],
): Promise<Map<string, string> | null> {
  const allocated = new Map<string, string>()
  const missing = () => instanceIds.filter((id) => !allocated.has(id))
  // Two transactions that each insert several addresses could wait for each other.
  if (instanceIds.length > 1) await lockPool(tx, poolId)
  for (let i = 0; i < TICKET_ROUNDS && allocated.size < instanceIds.length; i++) {
    for (const { instance_id, address } of await drawTickets(tx, poolId, missing())) allocated.set(instance_id, address)
  }
  if (allocated.size < instanceIds.length) await lockPool(tx, poolId)
  for (const id of missing()) {
    const address = await searchGap(tx, poolId, id)
    if (address === null) return null
    allocated.set(id, address)
  }
  return allocated
}

async function lockPool(tx: Transaction, poolId: string): Promise<void> {
  await tx`select pg_advisory_xact_lock(hashtextextended(${`addresses ${poolId}`}, 0))`
}

/** One ticket for each instance; returns those that pointed to a free address. The last address is the broadcast's. */
async function drawTickets(tx: Transaction, poolId: string, instanceIds: string[]) {
  return tx<{ instance_id: string; address: string }[]>`
    with pool as (
      select set_masklen(network(range)::inet, 32) as base, (2::numeric ^ (32 - masklen(range)))::bigint - 2 as last
      from address_pools where id = ${poolId})
    insert into addresses (pool_id, address, instance_id)
    select ${poolId}, base + ${FIRST_OFFSET}::bigint + nextval('address_tickets') % (last - ${FIRST_OFFSET} + 1), i.id
    from pool, unnest(${instanceIds}::text[]) as i(id)
    on conflict do nothing returning instance_id, address`
}

async function searchGap(tx: Transaction, poolId: string, instanceId: string): Promise<string | null> {
  for (let i = 0; i < MAX_SEARCHES; i++) {
    const [found] = await tx<{ gap: string | null; taken: string | null }[]>`
      with gap as materialized (select free_address(${poolId}, ${FIRST_OFFSET}) as address),
      taken as (
        insert into addresses (pool_id, address, instance_id)
        select ${poolId}, address, ${instanceId} from gap where address is not null
        on conflict do nothing returning address
      )
      select (select address from gap) as gap, (select address from taken) as taken`
    if (found?.taken || !found?.gap) return found?.taken ?? null
  }
  return null
}

/** Releases all addresses of an instance. */
export async function releaseAddresses(query: Query, instanceId: string): Promise<void> {
  await query`delete from addresses where instance_id = ${instanceId}`
}
