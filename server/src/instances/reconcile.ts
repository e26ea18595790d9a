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
import { isOpenTo, unfilteredMessage } from '../regions/store.ts'
import { columnsAfter, columnsAfterFailure, decide, type Step } from './decide.ts'
import { driverOf, regionOf } from './driver-of.ts'
import { TERMINATED_TTL_SECONDS } from './present.ts'
import { type InstanceRow, isTerminating } from './row.ts'
import { specOf } from './spec.ts'
import { load, observe, purge } from './store.ts'
import { type Failure, spanOf } from './trace.ts'

/** Poll interval for a guest that is booting, in seconds, in case a hint of the driver is lost. */
const BOOTING_INTERVAL = 5

/** The reconciler of instances. A reconcile pass: load, observe, decide, do one step, return when to requeue. */
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
    const decision = await observe(deps, claimed, machine, (seen, hasSlot) => {
      const next = decide(seen, machine, image, claimed.now, hasSlot)
      const changes = columnsAfter(seen, next)
      return { result: { step: next, row: { ...seen, ...changes } }, changes, terminated: next.do === 'finalise' }
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

/** Adds the pass to the trace of the request that caused it, if it did a step or observed a change. */
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

/** Does one step. Returns the seconds until the next pass. Never waits for a guest. */
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
      await requireOpenRegion(deps, row)
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

/** A host that no longer filters what guests send starts only those of the operator's project. Throws InvalidSpecError. */
async function requireOpenRegion(deps: Deps, row: InstanceRow): Promise<void> {
  const region = regionOf(deps, row)
  if (await isOpenTo(deps.sql.as(row.environment_id), deps.config, region, row)) return
  throw new InvalidSpecError('unfiltered_host', unfilteredMessage(region.id))
}

/** Shortens the interval for a guest that is booting, or to the time at which the driver expects a change. */
function secondsUntilNextPass(
  seconds: number,
  row: InstanceRow,
  machine: ObservedMachine | null,
  ref: MachineRef,
): number {
  if (!machine) return seconds
  const untilChange = machine.changes_at ? (machine.changes_at.getTime() - ref.now.getTime()) / 1000 : null
  const booting = machine.power === 'running' && !machine.ready && row.wanted_power === 'running'
  const pollInterval = booting && untilChange === null ? BOOTING_INTERVAL : seconds
  return Math.max(0, Math.min(seconds, pollInterval, untilChange ?? seconds))
}

/** Limits the interval so that the next pass is due no later than the instance expires. */
function capAtExpiry(row: InstanceRow, seconds: number, now: Date): number {
  if (row.expires_at === null || isTerminating(row)) return seconds
  return Math.max(0, Math.min(seconds, (row.expires_at.getTime() - now.getTime()) / 1000))
}

async function reconcileTerminated(
  deps: Deps,
  row: InstanceRow,
  claimed: Claim,
): Promise<{ after_seconds: number | null }> {
  const remaining = TERMINATED_TTL_SECONDS - (claimed.now.getTime() - row.terminated_at!.getTime()) / 1000
  if (remaining > 0) return { after_seconds: remaining }
  await purge(deps.sql, row.id)
  return { after_seconds: null }
}

/** Whether a retry cannot succeed. All other errors are retried by the engine with a backoff. */
function isFinal(error: unknown): error is DriverError {
  return [CapacityError, InvalidSpecError, AddressInUseError, DamagedDiskError, NotFoundError].some(
    (type) => error instanceof type,
  )
}
