/**
 * Sends what is due to one endpoint, several at a time, for as long as there is something.
 *
 * One endpoint is one key of work, so one process at a time sends to it, and an endpoint that hangs holds up nobody but
 * itself. Within it there are lanes: one request that takes its fifteen seconds leaves the others free, so what becomes
 * due meanwhile is read on and on. What came of requests is written in groups while the next ones are under way: a crash
 * in between sends at most those again.
 */
import type { Deps } from '../deps.ts'
import type { Claim } from '../engine/work.ts'
import { type Budget, createLane, type Lane } from './attempt.ts'
import { type Due, dueDeliveries, type Outcome } from './deliveries.ts'
import { noteOutcomes } from './health.ts'
import { type Health, healthAfter } from './plan.ts'
import { createEndpointView, deliver, type Endpoint, isOpen, trace } from './sender.ts'

/** Requests to one endpoint at the same time; one, when it has said that it is busy. */
const LANES = 5
/** Deliveries that are read at once, and outcomes that may wait to be written. */
const BATCH = 20
const MOST_UNWRITTEN = 200
/** Real milliseconds after which another endpoint may have the place of this one. */
const PUMP_MS = 60_000
/** The same of one whose last request failed: it begins no more, so however many hang, their places come round. */
const FAILING_PUMP_MS = 1_000
/** Real milliseconds after which it is looked for what is due, when nobody tells. */
const POLL_MS = 1_000
/** Looks in a row that may find nothing; each one more adds so much, up to this: most that is told may be about others. */
const IDLE_LOOKS = 3
const IDLE_MS = 20
const MOST_IDLE_MS = 200
/** Real milliseconds that requests may go on when the process is being stopped. */
const STOP_MS = 1_500

/** Resolves when there is nothing to send, or it has to end: then there may be more. Throws when something was not written. */
export async function pump(deps: Deps, claimed: Claim, first: Endpoint, budget: Budget): Promise<void> {
  const { clock, stopping } = deps
  const view = createEndpointView(deps, first)
  const begin = clock.monotonic()
  const free: Lane[] = Array.from({ length: LANES }, () => createLane(deps, budget))
  const lanes = [...free]
  /** Deliveries that were read and are not written yet. */
  const held = new Set<string>()
  let queue: Due[] = []
  let done: Outcome[] = []
  let health = healthOf(first)
  let isFailing = health.failing_since !== null
  let writing: Promise<void> | null = null
  const failures: unknown[] = []
  let mayBeMore = true
  let idleLooks = 0
  const bell = createBell()
  const over = new AbortController()

  async function send(lane: Lane, endpoint: Endpoint, due: Due): Promise<void> {
    try {
      const outcome = await deliver(deps, lane, endpoint, due)
      // What was broken off at the end is no failure of the receiver.
      if (over.signal.aborted) return
      trace(deps, endpoint, due, outcome)
      const { attempt } = outcome
      // Only how many at a time follows from it at once; the rest when it is written.
      if (attempt) {
        const seen = { succeeded: attempt.error === null, status: attempt.response_status }
        health.throttled = healthAfter(health, seen, claimed.now).throttled
        isFailing = !seen.succeeded
      }
      done.push(outcome)
      write()
    } catch (error) {
      failures.push(error)
    }
    free.push(lane)
    bell.ring()
  }

  function write(): void {
    if (writing || done.length === 0 || over.signal.aborted) return
    const outcomes = done
    done = []
    writing = noteOutcomes(deps, claimed, first, outcomes, { ...health })
      .then((result) => {
        const { throttled } = health
        health = { ...result.health, throttled }
        for (const { delivery_id } of outcomes) held.delete(delivery_id)
        if (result.disabled) view.forget()
      })
      .catch((error: unknown) => {
        failures.push(error)
      })
      .finally(() => {
        writing = null
        write()
        bell.ring()
      })
  }

  /** Somebody may have told of an event, or the time of a repetition has come. */
  async function listen(): Promise<void> {
    while (!over.signal.aborted) {
      await deps.notifier.nextChange(claimed.environment_id, POLL_MS, over.signal)
      const idle = idleLooks - IDLE_LOOKS
      if (idle > 0) await clock.sleep(Math.min(idle * IDLE_MS, MOST_IDLE_MS), over.signal)
      mayBeMore = true
      bell.ring()
    }
  }

  const onStop = () => {
    bell.ring()
    clock.after(STOP_MS, () => {
      failures.push(new Error('the process is being stopped'))
      bell.ring()
    })
  }
  stopping.addEventListener('abort', onStop)
  void listen()
  try {
    for (;;) {
      if (failures.length > 0) throw failures[0]
      const endpoint = await view.now()
      const ends = begin + (isFailing ? FAILING_PUMP_MS : PUMP_MS)
      const goesOn = endpoint !== null && isOpen(endpoint) && clock.monotonic() < ends && !stopping.aborted
      const limit = health.throttled ? 1 : LANES
      const hasRoom = () => lanes.length - free.length < limit && done.length < MOST_UNWRITTEN
      if (goesOn && queue.length === 0 && mayBeMore && hasRoom()) {
        mayBeMore = false
        queue = await dueDeliveries(deps.sql, claimed.id, [...held], BATCH)
        for (const { delivery_id } of queue) held.add(delivery_id)
        idleLooks = queue.length > 0 ? 0 : idleLooks + 1
        if (queue.length > 0) mayBeMore = true
      }
      if (!goesOn) for (const { delivery_id } of queue.splice(0)) held.delete(delivery_id)
      while (goesOn && queue.length > 0 && hasRoom()) void send(free.pop()!, endpoint, queue.shift()!)
      if (held.size === 0 && !(goesOn && mayBeMore)) return
      if (held.size > 0) await bell.wait()
    }
  } finally {
    stopping.removeEventListener('abort', onStop)
    over.abort()
    for (const lane of lanes) lane.close()
    // What is being written is not left behind: whoever looks next reads what came of these requests.
    await writing
  }
}

function healthOf({ row }: Endpoint): Health {
  return {
    failing_since: row.observed_failing_since,
    failed_at: row.observed_failed_at,
    throttled: row.observed_throttled,
  }
}

/** Wakes one who waits; a ring that nobody waits for is remembered. */
function createBell() {
  let rung = false
  let wake: (() => void) | null = null
  return {
    ring() {
      rung = true
      wake?.()
    },
    async wait() {
      if (!rung) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      wake = null
      rung = false
    },
  }
}
