/**
 * Sends the due deliveries of one webhook, several at a time, until none is due.
 *
 * A webhook is one work key, so one process at a time sends to it, and an endpoint that hangs delays no other endpoint.
 * The loop has several connection slots: while one request waits for its timeout, the others continue with deliveries that
 * become due. Outcomes are written in groups while further requests are in progress. After a crash, only requests whose
 * outcomes were not yet written are sent again.
 */
import type { Deps } from '../deps.ts'
import type { Claim } from '../engine/work.ts'
import { type Budget, type ConnectionSlot, createConnectionSlot } from './attempt.ts'
import { type Due, dueDeliveries, type Outcome } from './deliveries.ts'
import { recordOutcomes } from './health.ts'
import { type Health, healthAfter } from './retry-schedule.ts'
import { createEndpointView, deliver, type Endpoint, type EndpointView, isOpen, recordSpan } from './sender.ts'
import { createSignal } from './signal.ts'

/** Concurrent requests to one endpoint; one while the endpoint is throttled. */
const CONNECTION_SLOTS = 5
/** Deliveries per read. */
const BATCH = 20
/** No request starts while so many outcomes wait to be written. */
const MAX_UNWRITTEN = 200
/** Real milliseconds after which a pass ends and frees its worker slot for another webhook. */
const PASS_MS = 60_000
/** The same while the last request failed, so that endpoints that hang do not occupy all worker slots. */
const FAILING_PASS_MS = 1_000
/** Real milliseconds between reads without a notification. */
const POLL_MS = 1_000
/** After so many empty reads in a row, each further read waits longer: most notifications are about other resources. */
const FAST_EMPTY_READS = 3
const EMPTY_READ_DELAY_MS = 20
const MAX_EMPTY_READ_DELAY_MS = 200
/** Real milliseconds that requests may take to finish when the process stops. */
const STOP_MS = 1_500

/** Returns when nothing is due or the pass must end; then more deliveries can be due. Throws when outcomes were not written. */
export function sendDue(deps: Deps, claimed: Claim, first: Endpoint, budget: Budget): Promise<void> {
  return new DeliveryLoop(deps, claimed, first, budget).run()
}

class DeliveryLoop {
  readonly #deps: Deps
  readonly #claimed: Claim
  readonly #first: Endpoint
  readonly #view: EndpointView
  readonly #slots: ConnectionSlot[]
  readonly #freeSlots: ConnectionSlot[]
  /** IDs of deliveries that were read and whose outcomes are not yet written. */
  readonly #held = new Set<string>()
  readonly #failures: unknown[] = []
  readonly #signal = createSignal()
  readonly #ended = new AbortController()
  #queue: Due[] = []
  #unwritten: Outcome[] = []
  #writing: Promise<void> | null = null
  #health: Health
  #isFailing: boolean
  #mayBeMore = true
  #emptyReads = 0

  constructor(deps: Deps, claimed: Claim, first: Endpoint, budget: Budget) {
    this.#deps = deps
    this.#claimed = claimed
    this.#first = first
    this.#view = createEndpointView(deps, first)
    this.#slots = Array.from({ length: CONNECTION_SLOTS }, () => createConnectionSlot(deps, first.is_operators, budget))
    this.#freeSlots = [...this.#slots]
    this.#health = healthOf(first)
    this.#isFailing = this.#health.failing_since !== null
  }

  async run(): Promise<void> {
    const { stopping, clock } = this.#deps
    const start = clock.monotonic()
    const onStop = () => this.#stop()
    stopping.addEventListener('abort', onStop)
    void this.#poll()
    try {
      for (;;) {
        if (this.#failures.length > 0) throw this.#failures[0]
        const endpoint = await this.#view.now()
        const deadline = start + (this.#isFailing ? FAILING_PASS_MS : PASS_MS)
        const isActive = clock.monotonic() < deadline && !stopping.aborted
        if (endpoint !== null && isOpen(endpoint) && isActive) {
          await this.#readDue()
          this.#startRequests(endpoint)
          if (this.#held.size === 0 && !this.#mayBeMore) return
        } else {
          for (const { delivery_id } of this.#queue.splice(0)) this.#held.delete(delivery_id)
          if (this.#held.size === 0) return
        }
        if (this.#held.size > 0) await this.#signal.wait()
      }
    } finally {
      stopping.removeEventListener('abort', onStop)
      this.#ended.abort()
      for (const slot of this.#slots) slot.close()
      // The next pass must read the outcomes of these requests.
      await this.#writing
    }
  }

  #canStart(): boolean {
    const limit = this.#health.throttled ? 1 : CONNECTION_SLOTS
    return this.#slots.length - this.#freeSlots.length < limit && this.#unwritten.length < MAX_UNWRITTEN
  }

  async #readDue(): Promise<void> {
    if (this.#queue.length > 0 || !this.#mayBeMore || !this.#canStart()) return
    this.#mayBeMore = false
    this.#queue = await dueDeliveries(this.#deps.sql, this.#claimed.id, [...this.#held], BATCH)
    for (const { delivery_id } of this.#queue) this.#held.add(delivery_id)
    this.#emptyReads = this.#queue.length > 0 ? 0 : this.#emptyReads + 1
    if (this.#queue.length > 0) this.#mayBeMore = true
  }

  #startRequests(endpoint: Endpoint): void {
    while (this.#queue.length > 0 && this.#canStart()) {
      void this.#send(this.#freeSlots.pop()!, endpoint, this.#queue.shift()!)
    }
  }

  async #send(slot: ConnectionSlot, endpoint: Endpoint, due: Due): Promise<void> {
    try {
      const outcome = await deliver(this.#deps, slot, endpoint, due)
      // A request that the end of the pass aborted is not a failure of the receiver.
      if (this.#ended.signal.aborted) return
      recordSpan(this.#deps, endpoint, due, outcome)
      const { attempt } = outcome
      // The concurrency changes immediately, the rest of the health when the outcome is written.
      if (attempt) {
        const result = { succeeded: attempt.error === null, status: attempt.response_status }
        this.#health.throttled = healthAfter(this.#health, result, this.#claimed.now).throttled
        this.#isFailing = !result.succeeded
      }
      this.#unwritten.push(outcome)
      this.#write()
    } catch (error) {
      this.#failures.push(error)
    }
    this.#freeSlots.push(slot)
    this.#signal.set()
  }

  #write(): void {
    if (this.#writing || this.#unwritten.length === 0 || this.#ended.signal.aborted) return
    const outcomes = this.#unwritten
    this.#unwritten = []
    this.#writing = recordOutcomes(this.#deps, this.#claimed, this.#first, outcomes, { ...this.#health })
      .then((result) => {
        this.#health = { ...result.health, throttled: this.#health.throttled }
        for (const { delivery_id } of outcomes) this.#held.delete(delivery_id)
        if (result.disabled) this.#view.invalidate()
      })
      .catch((error: unknown) => {
        this.#failures.push(error)
      })
      .finally(() => {
        this.#writing = null
        this.#write()
        this.#signal.set()
      })
  }

  /** Sets the signal when an event was emitted or a retry can be due. */
  async #poll(): Promise<void> {
    const { signal } = this.#ended
    while (!signal.aborted) {
      await this.#deps.notifier.nextChange(this.#claimed.environment_id, POLL_MS, signal)
      const extra = this.#emptyReads - FAST_EMPTY_READS
      const delay = Math.min(extra * EMPTY_READ_DELAY_MS, MAX_EMPTY_READ_DELAY_MS)
      if (extra > 0) await this.#deps.clock.sleep(delay, signal)
      this.#mayBeMore = true
      this.#signal.set()
    }
  }

  #stop(): void {
    this.#signal.set()
    this.#deps.clock.after(STOP_MS, () => {
      this.#failures.push(new Error('the process is stopping'))
      this.#signal.set()
    })
  }
}

function healthOf({ row }: Endpoint): Health {
  return {
    failing_since: row.observed_failing_since,
    failed_at: row.observed_failed_at,
    throttled: row.observed_throttled,
  }
}
