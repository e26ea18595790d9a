/**
 * The ledger of deliveries: what each webhook must receive, by the witnesses, and what its receiver has received. It has
 * no knowledge of how deliveries are queued or retried.
 */
import type { Witness } from './database.ts'
import type { Violation } from './invariants.ts'
import type { Receipt } from './receivers.ts'

export type Ledger = {
  /** What was committed and received since the last time: nothing is sent that was not committed, as it was committed. */
  note(witnesses: readonly Witness[], receipts: readonly Receipt[]): Violation[]
  /** How many requests have reached receivers. */
  received(): number
  /** What was never taken, though its webhook has been open since it was committed. */
  missing(): Violation[]
}

export function createLedger(): Ledger {
  const events = new Map<string, Witness>()
  const webhooks = new Map<string, { id: string; environment_id: string }>()
  /** By webhook, the events that it has not received. */
  const due = new Map<string, Set<string>>()
  let received = 0

  function write(witness: Witness): void {
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

  function judge({ url, event, wrong }: Receipt): Violation[] {
    const committed = events.get(event.id)
    const webhook = webhooks.get(url)
    const say = (what: string) => [{ invariant: 'deliveries', what: `${url} got ${event.type} ${event.id}: ${what}` }]
    if (wrong) return say(`it ${wrong}`)
    if (!committed || !webhook) return say('it was not committed')
    if (committed.environment_id !== webhook.environment_id) {
      return [{ invariant: 'I7', what: `${url} got an event of another tenant` }]
    }
    const { id, version } = event.data.object
    const isSame =
      event.type === committed.is &&
      event.sequence === committed.sequence &&
      id === committed.resource_id &&
      (version ?? null) === committed.version
    return isSame ? [] : say('it was committed otherwise')
  }

  return {
    note(witnesses, receipts) {
      for (const witness of witnesses) write(witness)
      received += receipts.length
      for (const { url, event, isTaken } of receipts) {
        const webhook = webhooks.get(url)
        if (isTaken && webhook) due.get(webhook.id)?.delete(event.id)
      }
      return receipts.flatMap(judge)
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
