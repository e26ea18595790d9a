/**
 * Decides the next step of a reconcile pass, from the observed state towards the desired state.
 *
 * Pure, and tested with thousands of random histories. It is level-triggered: it depends on the desired state
 * (`wanted_*`), the observed state (`observed_*` and `machine`) and the time, never on the request or event that woke
 * the key. A step that was done but not recorded, because the process crashed, is observed as done by the next pass.
 *
 * Desired states are numbered: a start, reboot, rebuild, or resize of a running machine increments `wanted_run`, and a
 * rebuild also increments `wanted_disk`. A machine of an older run is shut down and started again. A machine with an
 * older disk is deleted and created again. A problem carries these numbers and applies to no later desired state.
 */
import type { ObservedMachine } from '../drivers/driver.ts'
import { backoffLeft, isCrashLoop, MAX_FAILURES } from './recovery.ts'
import { type InstanceRow, isTerminating, type Problem, runOf } from './row.ts'
import { currentProblem, poweredItselfOff } from './status.ts'

/** Whether the instance's image is on the host, or why its import failed. */
export type ImageState = { present: boolean; error: { code: string; message: string } | null }

export type Step =
  | {
      do: 'nothing'
      after_seconds: number | 'resync'
      /** What a recovery waits for: the backoff, a recovery slot, or free capacity on the host's disk. */
      waits_for?: 'backoff' | 'recovery_slot' | 'capacity'
    }
  | { do: 'fail'; code: string; message: string }
  | { do: 'power_down'; after_seconds: number }
  | { do: 'start' /** A restart after a failure, without a request; it counts as a new run. */; recovering: boolean }
  | { do: 'resume' /** Resumes a machine that is paused after a disk error, as the first attempt of a recovery. */ }
  | {
      do: 'require_image' | 'create' | 'kill' | 'resize_disk' | 'set_public_address' | 'delete' | 'finalise'
    }

/** THE LIST of steps, the same as in the type; for tests that must cover them all. */
export const STEPS = Object.keys({
  nothing: true,
  fail: true,
  power_down: true,
  start: true,
  resume: true,
  require_image: true,
  create: true,
  kill: true,
  resize_disk: true,
  set_public_address: true,
  delete: true,
  finalise: true,
} satisfies Record<Step['do'], true>) as Step['do'][]

/** Seconds between power-down requests: a guest that is still booting ignores them. */
const POWER_DOWN_INTERVAL = 5
/** Seconds between passes while waiting for a recovery slot. A slot that becomes free wakes the key earlier. */
const SLOT_INTERVAL = 2
/** Seconds between passes while the host's disk is full. */
const CAPACITY_INTERVAL = 10
const WAIT_FOR_RESYNC: Step = { do: 'nothing', after_seconds: 'resync' }

/**
 * Decides the next step. The `observed_*` columns of `row` must already reflect `machine` (see `observe` in store.ts).
 * @param hasSlot whether the instance has a recovery slot, or needs none (`needsRecoverySlot`)
 */
export function decide(
  row: InstanceRow,
  machine: ObservedMachine | null,
  image: ImageState,
  now: Date,
  hasSlot = true,
): Step {
  if (isTerminating(row)) return towardsTerminated(row, machine)
  if (machine && machine.disk !== row.wanted_disk) return { do: 'delete' }
  if (row.wanted_power === 'stopped' || poweredItselfOff(row)) return towardsStopped(row, machine, now)
  if (currentProblem(row)) return WAIT_FOR_RESYNC
  if (!machine) return towardsExisting(row, image)
  return towardsRunning(row, machine, now, hasSlot)
}

/** An expired instance first gets the status terminating, even without a machine to delete. */
function towardsTerminated(row: InstanceRow, machine: ObservedMachine | null): Step {
  if (machine) return { do: 'delete' }
  return row.status === 'terminating' ? { do: 'finalise' } : { do: 'nothing', after_seconds: 0 }
}

function towardsStopped(row: InstanceRow, machine: ObservedMachine | null, now: Date): Step {
  if (!machine) return WAIT_FOR_RESYNC
  if (machine.power === 'running' || machine.power === 'paused') return endRun(row, machine, now)
  if (row.wanted_activity === 'resizing' && machine.disk_bytes < row.wanted_disk_bytes) return { do: 'resize_disk' }
  return WAIT_FOR_RESYNC
}

/** Requests a shutdown of the guest, and kills the machine at the timeout; immediately if the guest is paused or hangs. */
function endRun(row: InstanceRow, machine: ObservedMachine, now: Date): Step {
  const left = row.wanted_stop_timeout_seconds - seconds(row.wanted_at, now)
  if (machine.power === 'paused' || machine.trouble === 'hang' || left <= 0) return { do: 'kill' }
  return { do: 'power_down', after_seconds: Math.min(POWER_DOWN_INTERVAL, left) }
}

function towardsExisting(row: InstanceRow, image: ImageState): Step {
  if (row.observed_ready_disk === row.wanted_disk) {
    return fail('disk_lost', 'The disk is no longer on the host. A rebuild makes a new one from the image.')
  }
  if (image.present) return { do: 'create' }
  if (image.error) return fail(image.error.code, image.error.message)
  return { do: 'require_image' }
}

function towardsRunning(row: InstanceRow, machine: ObservedMachine, now: Date, hasSlot: boolean): Step {
  const current = machine.run === runOf(row)
  const restart = (code: string, message: string): Step => {
    if (!row.observed_recovering) return fail(code, `${message} The console log may show why. Start it again.`)
    if (!hasSlot) return { do: 'nothing', after_seconds: SLOT_INTERVAL, waits_for: 'recovery_slot' }
    return backoffOrCrashLoop(row, now) ?? { do: 'start', recovering: true }
  }
  switch (machine.power) {
    case 'stopped':
      if (!current) return { do: 'start', recovering: false }
      return restart('machine_exited', 'The virtual machine was stopped by something other than CloudNexus.')
    case 'off':
      if (!current) return { do: 'start', recovering: false }
      return restart('guest_powered_off', 'The guest powered itself off before it was ready.')
    case 'crashed':
      if (!current) return { do: 'start', recovering: false }
      return restart('machine_exited', 'The virtual machine ended unexpectedly.')
    case 'paused':
      return current ? whilePaused(row, machine, now) : { do: 'kill' }
    case 'running':
      return current ? whileRunning(row, machine, now) : endRun(row, machine, now)
  }
}

/** The backoff that a recovery waits for, or its failure in a crash loop; null when it can continue. */
function backoffOrCrashLoop({ observed_failures: failures }: InstanceRow, now: Date): Step | null {
  if (!failures) return null
  if (isCrashLoop(failures)) {
    const message = `The machine failed again (${failures.cause}) after ${MAX_FAILURES} failures within 30 minutes. The console log may show why. Start it again.`
    return fail('crash_loop', message)
  }
  const wait = backoffLeft(failures, now)
  return wait > 0 ? { do: 'nothing', after_seconds: wait, waits_for: 'backoff' } : null
}

/** After a panic the machine is restarted. After a disk error it is resumed once, which loses no state of the guest. */
function whilePaused(row: InstanceRow, machine: ObservedMachine, now: Date): Step {
  const disk = machine.trouble === 'disk_error' || machine.trouble === 'disk_full'
  if (!row.observed_recovering) {
    return disk
      ? fail(
          'disk_error',
          'The disk of the virtual machine reported an error. Start the instance again when the disk is repaired.',
        )
      : fail('guest_panicked', 'The kernel of the guest has panicked. The console log shows why. Start it again.')
  }
  if (machine.trouble === 'disk_full') return { do: 'nothing', after_seconds: CAPACITY_INTERVAL, waits_for: 'capacity' }
  if (!disk || row.observed_recovery_attempts > 0) return { do: 'kill' }
  return backoffOrCrashLoop(row, now) ?? { do: 'resume' }
}

function whileRunning(row: InstanceRow, machine: ObservedMachine, now: Date): Step {
  if (machine.trouble === 'hang') {
    if (row.observed_recovering) return { do: 'kill' }
    return fail('guest_hung', 'The guest has not responded for 30 seconds. The console log may show why.')
  }
  const ports = machine.ports.map((p) => p.guest_port)
  const forwarded = row.wanted_public_ip !== null && row.ports.some((port) => !ports.includes(port))
  if (machine.public_ip !== row.wanted_public_ip || forwarded) return { do: 'set_public_address' }
  if (machine.ready) return WAIT_FOR_RESYNC
  const left = row.ready_timeout_seconds - seconds(machine.started_at ?? now, now)
  if (left > 0) return { do: 'nothing', after_seconds: left }
  return fail(
    'ready_timeout',
    `The guest did not report that it is ready within ${row.ready_timeout_seconds} seconds of its start. It is still running. The console log may show why.`,
  )
}

const fail = (code: string, message: string): Step => ({ do: 'fail', code, message })
const seconds = (from: Date, to: Date): number => (to.getTime() - from.getTime()) / 1000

/** Columns that a decision writes before its step is done: a problem, or the counters of a recovery. */
export function columnsAfter(row: InstanceRow, step: Step): Partial<InstanceRow> {
  if (step.do === 'fail') return columnsAfterFailure(row, step.code, step.message)
  if (step.do === 'resume') return { observed_recovery_attempts: row.observed_recovery_attempts + 1 }
  if (step.do !== 'start' || !step.recovering) return {}
  const { observed_recovery_attempts: attempts, observed_recoveries: recoveries } = row
  return { observed_recovery_attempts: attempts + 1, observed_recoveries: recoveries + 1 }
}

/** Columns of a failure to reach the current desired state; it also ends a recovery. */
export function columnsAfterFailure(row: InstanceRow, code: string, message: string): Partial<InstanceRow> {
  const problem: Problem = { code, message, run: runOf(row), disk: row.wanted_disk }
  return { observed_problem: problem, observed_recovering: false, observed_recovery_attempts: 0 }
}
