/**
 * The ledger of deliveries: the events that each webhook must receive, by the witnesses, and those that its receiver has
 * received. It is independent of how deliveries are queued and retried.
 */
import type { Witness } from './database.ts'
import type { Violation } from './invariants.ts'
import type { Receipt } from './receivers.ts'

export type Ledger = {
  /** Records what was committed and received since the last call. A receipt must equal its committed event. */
  record(witnesses: readonly Witness[], receipts: readonly Receipt[]): Violation[]
  /** Number of requests that have reached receivers. */
  received(): number
  /** Events that were never accepted although their webhook has been open since their commit. */
  missing(): Violation[]
}

export function createLedger(): Ledger {
  const events = new Map<string, Witness>()
  const webhooks = new Map<string, { id: string; environment_id: string }>()
  /** The events that each webhook must still receive. */
  const due = new Map<string, Set<string>>()
  let received = 0

  function addWitness(witness: Witness): void {
    const { what, resource_id, environment_id, is, was: url } = witness
    if (what === 'webhook') {
      webhooks.set(url!, { id: resource_id, environment_id })
      if (is === 'closed') due.delete(resource_id)
    }
    if (what === 'event') {
      events.set(witness.event_id!, witness)
      for (const id of witness.webhooks ?? []) due.set(id, (due.get(id) ?? new Set()).add(witness.event_id!))
    }
  }

  function check({ url, event, violation }: Receipt): Violation[] {
    const committed = events.get(event.id)
    const webhook = webhooks.get(url)
    const report = (what: string) => [
      { invariant: 'deliveries', what: `${url} received ${event.type} ${event.id}: ${what}` },
    ]
    if (violation) return report(violation)
    if (!committed || !webhook) return report('it was not committed')
    if (committed.environment_id !== webhook.environment_id) {
      return [{ invariant: 'I7', what: `${url} received an event of another tenant` }]
    }
    const { id, version } = event.data.object
    const isSame =
      event.type === committed.is &&
      event.sequence === committed.sequence &&
      id === committed.resource_id &&
      (version ?? null) === committed.version
    return isSame ? [] : report('it differs from the committed event')
  }

  return {
    record(witnesses, receipts) {
      for (const witness of witnesses) addWitness(witness)
      received += receipts.length
      for (const { url, event, isAccepted } of receipts) {
        const webhook = webhooks.get(url)
        if (isAccepted && webhook) due.get(webhook.id)?.delete(event.id)
      }
      return receipts.flatMap(check)
    },
    received: () => received,
    missing: () =>
      [...due].flatMap(([webhook, ids]) =>
        [...ids].map((id) => ({
          invariant: 'deliveries',
          what: `${webhook} never received ${events.get(id)!.is} ${id}`,
        })),
      ),
  }
}
