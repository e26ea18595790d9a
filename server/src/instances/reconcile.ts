import type { Deps } from '../deps.ts'
import {
  AddressInUseError,
  CapacityError,
  DamagedDiskError,
  type Driver,
  DriverError,
  InvalidSpecError,
  type MachineRef,
  NotFoundError,
  type ObservedMachine,
} from '../drivers/driver.ts'
import type { Reconcile } from '../engine/loop.ts'
import type { Claim } from '../engine/work.ts'
import { withOutbox } from '../events/outbox.ts'
import { availability, ensureImport } from '../images/store.ts'
import { columnsAfter, columnsAfterFailure, decide, type Step } from './decide.ts'
import { driverOf } from './driver-of.ts'
import { TERMINATED_TTL_SECONDS } from './present.ts'
import { type InstanceRow, isTerminating } from './row.ts'
import { specOf } from './spec.ts'
import { load, observe, purge } from './store.ts'
import { type Failure, spanOf } from './trace.ts'

/** Seconds between looks at a guest that is booting, should a hint of the driver be lost. */
const BOOTING_INTERVAL = 5

/** Looks at one instance: load → observe → plan → one step → when to look again. */
export function instanceReconciler(deps: Deps): Reconcile {
  return async (claimed) => {
    const begun = { at: deps.clock.now(), ms: deps.clock.monotonic() }
    const row = await load(deps.sql, claimed.id)
    if (!row) return { after_seconds: null }
    if (row.terminated_at) return reconcileTerminated(deps, row, claimed)
    const driver = driverOf(deps, row)
    const ref = { id: row.id, environment_id: row.environment_id, now: claimed.now, lease: claimed.lease }
    const machine = await driver.get(ref)
    const image = await availability(deps.sql, row.image_id, row.mode)
    const decision = await observe(deps, claimed, machine, (seen, turn) => {
      const next = decide(seen, machine, image, claimed.now, turn)
      const changes = columnsAfter(seen, next)
      return { result: { step: next, row: { ...seen, ...changes } }, changes, gone: next.do === 'finalise' }
    })
    if (!decision) return { after_seconds: null }
    const { step } = decision
    const trace = (failure: Failure = null) => recordSpan(deps, begun, row, decision.row, step, failure)
    try {
      const seconds = await execute(deps, driver, decision.row, step, ref, machine)
      trace()
      return { after_seconds: capAtExpiry(decision.row, seconds, claimed.now) }
    } catch (error) {
      const code = error instanceof DriverError ? error.code : 'unavailable'
      const final = isFinal(error) && !isTerminating(decision.row)
      trace({ code, final })
      if (!isFinal(error) || !final) throw error
      deps.log.warn({ instance: row.id, step: step.do, error: error.message }, 'step cannot succeed')
      await observe(deps, claimed, await driver.get(ref), (seen) => ({
        result: null,
        changes: columnsAfterFailure(seen, error.code, error.public_message),
      }))
      return { after_seconds: 0 }
    }
  }
}

/** Records the look for the trace of the request that caused it, where it did or found something. */
function recordSpan(
  { requests, clock }: Deps,
  begun: { at: Date; ms: number },
  before: InstanceRow,
  seen: InstanceRow,
  step: Step,
  failure: Failure,
): void {
  const request_id = seen.wanted_request_id
  const span = spanOf(before, seen, step, failure)
  if (request_id === null || span === null) return
  const { id: resource, environment_id } = before
  const duration_ms = clock.monotonic() - begun.ms
  requests.span({ environment_id, request_id, resource, started_at: begun.at, duration_ms, ...span })
}

/** Does one step and answers the seconds until the next look. Nothing here waits for a guest. */
async function execute(
  deps: Deps,
  driver: Driver,
  row: InstanceRow,
  step: Step,
  ref: MachineRef & { lease: number },
  machine: ObservedMachine | null,
): Promise<number> {
  const spec = () => specOf(deps, row, ref.lease)
  switch (step.do) {
    case 'nothing':
      return secondsUntilNextPass(
        step.after_seconds === 'resync' ? driver.resync_seconds : step.after_seconds,
        row,
        machine,
        ref,
      )
    case 'fail':
      return driver.resync_seconds
    case 'finalise':
      return TERMINATED_TTL_SECONDS
    case 'require_image':
      await withOutbox(deps, row, (tx, outbox) => ensureImport(tx, outbox, row.image_id))
      return BOOTING_INTERVAL
    case 'create':
      await driver.create(await spec(), ref.now)
      return 0
    case 'start':
      await driver.start(await spec(), ref.now)
      return 0
    case 'power_down':
      await driver.powerDown(ref)
      return secondsUntilNextPass(step.after_seconds, row, await driver.get(ref), ref)
    case 'kill':
      await driver.kill(ref)
      return 0
    case 'resume':
      await driver.resume(ref)
      return 0
    case 'resize_disk':
      await driver.resizeDisk(await spec(), ref.now)
      return 0
    case 'set_public_address':
      await driver.setPublicAddress(await spec(), ref.now)
      return 0
    case 'delete':
      await driver.delete(ref)
      return 0
  }
}

/** A guest that boots is looked at often; one that is known to change at a certain time, then. */
function secondsUntilNextPass(
  seconds: number,
  row: InstanceRow,
  machine: ObservedMachine | null,
  ref: MachineRef,
): number {
  if (!machine) return seconds
  const known = machine.changes_at ? (machine.changes_at.getTime() - ref.now.getTime()) / 1000 : null
  const booting = machine.power === 'running' && !machine.ready && row.wanted_power === 'running'
  const often = booting && known === null ? BOOTING_INTERVAL : seconds
  return Math.max(0, Math.min(seconds, often, known ?? seconds))
}

/** Not later than the moment at which its time is up. */
function capAtExpiry(row: InstanceRow, seconds: number, now: Date): number {
  if (row.expires_at === null || isTerminating(row)) return seconds
  return Math.max(0, Math.min(seconds, (row.expires_at.getTime() - now.getTime()) / 1000))
}

async function reconcileTerminated(
  deps: Deps,
  row: InstanceRow,
  claimed: Claim,
): Promise<{ after_seconds: number | null }> {
  const left = TERMINATED_TTL_SECONDS - (claimed.now.getTime() - row.terminated_at!.getTime()) / 1000
  if (left > 0) return { after_seconds: left }
  await purge(deps.sql, row.id)
  return { after_seconds: null }
}

/** Errors that trying again does not cure; all others go to the engine's back-off. */
function isFinal(error: unknown): error is DriverError {
  return [CapacityError, InvalidSpecError, AddressInUseError, DamagedDiskError, NotFoundError].some(
    (type) => error instanceof type,
  )
}
