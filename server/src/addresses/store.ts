/**
 * Addresses: a row of `addresses` is the reservation, and its primary key keeps it single.
 *
 * Who allocates draws a ticket, from a sequence that no transaction holds back, and takes the address that the ticket
 * falls on: so concurrent transactions go for different addresses without waiting for each other, and an address rests
 * for a round of the range before it is given out again (what still talks to its last owner does not reach the next
 * one). Only where tickets keep falling on taken addresses, in a range that is nearly full, a gap is searched for, by
 * one transaction at a time. That there is none is said only by this search.
 *
 * A pool may be shared by all tenants. The transaction is bound to one of them and sees only what that one holds: that a
 * ticket's address is taken, it learns from the primary key, and the gap from a function that sees all.
 */
import type { Query, Transaction } from '../db/database.ts'

/** Addresses at the start of every range that no instance gets: the network's own and the gateway's. */
const FIRST_OFFSET = 2
/** Tickets that are drawn before the search. */
const TICKETS = 16
/** A gap that was found can be lost to a ticket of somebody else; so often in a row it is not. */
const MAX_SEARCHES = 1_000

/**
 * Reserves a free address of a pool for an instance, in the caller's transaction, whose tenant then holds it.
 * @returns its text, or null when there is none
 */
export async function allocateAddress(tx: Transaction, poolId: string, instanceId: string): Promise<string | null> {
  for (let i = 0; i < TICKETS; i++) {
    // The address behind the last one that is given out is the broadcast's.
    const [taken] = await tx<{ address: string }[]>`
      with pool as (
        select set_masklen(network(range)::inet, 32) as base, (2::numeric ^ (32 - masklen(range)))::bigint - 2 as last
        from address_pools where id = ${poolId})
      insert into addresses (pool_id, address, instance_id)
      select ${poolId}, base + ${FIRST_OFFSET}::bigint + nextval('address_tickets') % (last - ${FIRST_OFFSET} + 1),
        ${instanceId} from pool
      on conflict do nothing returning address`
    if (taken) return taken.address
  }
  await tx`select pg_advisory_xact_lock(hashtextextended(${`addresses ${poolId}`}, 0))`
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

/** Gives back everything that an instance holds. */
export async function releaseAddresses(query: Query, instanceId: string): Promise<void> {
  await query`delete from addresses where instance_id = ${instanceId}`
}
