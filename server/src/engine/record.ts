/**
 * How a reconcile pass records what it observed: one transaction that locks the row, writes it with its events, and
 * commits only while the claim is the newest one of its key. A delayed worker therefore never overwrites what a later
 * worker wrote.
 */
import type { Transaction } from '../db/database.ts'
import { LEASE_LOST, type Outbox, type OutboxDeps, withOutbox } from '../events/outbox.ts'
import { type Claim, LeaseLostError } from './work.ts'

/**
 * Locks the row of a claim, writes it and its outbox, and notifies the clients that wait for the resource.
 * @param lock locks and reads the row; null when it no longer exists
 * @param write writes the locked row; wakes and events go into the outbox
 * @returns what `write` returned, or null without a row
 * @throws LeaseLostError when another worker has claimed the key since; then nothing was written
 */
export async function record<Row, T>(
  deps: OutboxDeps,
  claimed: Claim,
  lock: (tx: Transaction) => Promise<Row | null>,
  write: (tx: Transaction, outbox: Outbox, row: Row) => Promise<T>,
): Promise<T | null> {
  const written = await withLease(deps, claimed, async (tx, outbox) => {
    const row = await lock(tx)
    return row === null ? null : { value: await write(tx, outbox, row) }
  })
  if (written) deps.notifier.changed(claimed.id)
  return written ? written.value : null
}

/** A transaction with an outbox that commits only under the lease of the claim. Throws LeaseLostError otherwise. */
export async function withLease<T>(
  deps: OutboxDeps,
  claimed: Claim,
  body: (tx: Transaction, outbox: Outbox) => Promise<T>,
): Promise<T> {
  try {
    return await withOutbox(deps, claimed, body, { lease: claimed })
  } catch (error) {
    if ((error as { code?: string }).code !== LEASE_LOST) throw error
    throw new LeaseLostError(`the lease of ${claimed.kind} ${claimed.id} was lost`)
  }
}
