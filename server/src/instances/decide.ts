/**
 * The decision: what is the one next step from what is there to what is wanted?
 *
 * Pure, so it is tested with thousands of random histories. It is level-triggered: it does not know which call or
 * event led here, only the wish (`wanted_*`), what was remembered (`observed_*`), what the host shows (`machine`) and
 * the time. A step that was done but not recorded, because the process died in between, is simply seen as done.
 *
 * Numbers make wishes comparable: a start, reboot, resize of a running machine or rebuild raises `wanted_run`, a
 * rebuild also `wanted_disk`. A machine of an older run is ended and started anew, one of an older disk is removed and
 * made anew. Problems are remembered with these numbers and so end with the wish that they belong to.
 */
import type { ObservedMachine } from '../drivers/driver.ts'
import { backoffLeft, isCrashLoop, MAX_FAILURES } from './recovery.ts'
import { type InstanceRow, isTerminating, type Problem, runOf } from './row.ts'
import { currentProblem, poweredItselfOff } from './status.ts'

/** What the instance's image can offer now. */
export type ImageState = { present: boolean; error: { code: string; message: string } | null }

export type Step =
  | {
      do: 'nothing'
      after_seconds: number | 'resync'
      /** What a recovery waits for: the time between starts, its turn after others, room on the host's disk. */
      waits_for?: 'backoff' | 'turn' | 'room'
    }
  | { do: 'fail'; code: string; message: string }
  | { do: 'power_down'; after_seconds: number }
  | { do: 'start' /** A start that nobody wished for, after a failure; it counts as a new run. */; recovering: boolean }
  | { do: 'resume' /** Lets a machine go on whose disk had failed, as the first try of a recovery. */ }
  | {
      do: 'require_image' | 'create' | 'kill' | 'resize_disk' | 'set_public_address' | 'delete' | 'finalise'
    }

/** THE LIST of steps: the type's, for who must know that it has met them all. */
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

/** The guest is asked again at this interval, in seconds: one that was still booting did not hear the first time. */
const POWER_DOWN_INTERVAL = 5
/** Seconds between looks of one that waits for its turn; who makes room wakes it earlier. */
const TURN_INTERVAL = 2
/** Seconds between looks at a host without room. */
const ROOM_INTERVAL = 10
const REST: Step = { do: 'nothing', after_seconds: 'resync' }

/**
 * Decides the next step. `row` must already hold what `machine` shows (see `store.observe`).
 * @param turn whether a start may happen now that has to wait for others (`needsTurn`)
 */
export function decide(
  row: InstanceRow,
  machine: ObservedMachine | null,
  image: ImageState,
  now: Date,
  turn = true,
): Step {
  if (isTerminating(row)) return towardsGone(row, machine)
  if (machine && machine.disk !== row.wanted_disk) return { do: 'delete' }
  if (row.wanted_power === 'stopped' || poweredItselfOff(row)) return towardsStopped(row, machine, now)
  if (currentProblem(row)) return REST
  if (!machine) return towardsExisting(row, image)
  return towardsRunning(row, machine, now, turn)
}

/** An instance whose time is up is seen terminating first, also where nothing is left to be removed. */
function towardsGone(row: InstanceRow, machine: ObservedMachine | null): Step {
  if (machine) return { do: 'delete' }
  return row.status === 'terminating' ? { do: 'finalise' } : { do: 'nothing', after_seconds: 0 }
}

function towardsStopped(row: InstanceRow, machine: ObservedMachine | null, now: Date): Step {
  if (!machine) return REST
  if (machine.power === 'running' || machine.power === 'paused') return endRun(row, machine, now)
  if (row.wanted_activity === 'resizing' && machine.disk_bytes < row.wanted_disk_bytes) return { do: 'resize_disk' }
  return REST
}

/** Asks the guest, and pulls the plug when its time is over. One that is paused or hangs hears nothing. */
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

function towardsRunning(row: InstanceRow, machine: ObservedMachine, now: Date, turn: boolean): Step {
  const current = machine.run === runOf(row)
  const startAgain = (code: string, message: string): Step => {
    if (!row.observed_recovering) return fail(code, `${message} The console log may tell why; start it again.`)
    if (!turn) return { do: 'nothing', after_seconds: TURN_INTERVAL, waits_for: 'turn' }
    return heldBack(row, now) ?? { do: 'start', recovering: true }
  }
  switch (machine.power) {
    case 'stopped':
      if (!current) return { do: 'start', recovering: false }
      return startAgain('machine_exited', 'The virtual machine was ended from outside.')
    case 'off':
      if (!current) return { do: 'start', recovering: false }
      return startAgain('guest_powered_off', 'The guest powered itself off before it was up.')
    case 'crashed':
      if (!current) return { do: 'start', recovering: false }
      return startAgain('machine_exited', 'The virtual machine ended unexpectedly.')
    case 'paused':
      return current ? whilePaused(row, machine, now) : { do: 'kill' }
    case 'running':
      return current ? whileRunning(row, machine, now) : endRun(row, machine, now)
  }
}

/** Why a recovery does not go on now; null: nothing stands in its way. */
function heldBack({ observed_failures: failures }: InstanceRow, now: Date): Step | null {
  if (!failures) return null
  if (isCrashLoop(failures)) {
    const message = `The machine failed again (${failures.cause}) after ${MAX_FAILURES} failures within 30 minutes. The console log may tell why; start it again.`
    return fail('crash_loop', message)
  }
  const wait = backoffLeft(failures, now)
  return wait > 0 ? { do: 'nothing', after_seconds: wait, waits_for: 'backoff' } : null
}

/** A panic ends in a new start. A disk gets one chance to go on as it is, where nothing of the guest is lost. */
function whilePaused(row: InstanceRow, machine: ObservedMachine, now: Date): Step {
  const disk = machine.trouble === 'disk_error' || machine.trouble === 'disk_full'
  if (!row.observed_recovering) {
    return disk
      ? fail('disk_error', 'The disk of the virtual machine reported an error. Start it again when it is mended.')
      : fail('guest_panicked', 'The kernel of the guest has panicked. The console log tells why; start it again.')
  }
  if (machine.trouble === 'disk_full') return { do: 'nothing', after_seconds: ROOM_INTERVAL, waits_for: 'room' }
  if (!disk || row.observed_recovery_attempts > 0) return { do: 'kill' }
  return heldBack(row, now) ?? { do: 'resume' }
}

function whileRunning(row: InstanceRow, machine: ObservedMachine, now: Date): Step {
  if (machine.trouble === 'hang') {
    if (row.observed_recovering) return { do: 'kill' }
    return fail('guest_hung', 'The guest has given no sign of life for half a minute. The console log may tell why.')
  }
  const ports = machine.ports.map((p) => p.guest_port)
  const forwarded = row.wanted_public_ip !== null && row.ports.some((port) => !ports.includes(port))
  if (machine.public_ip !== row.wanted_public_ip || forwarded) return { do: 'set_public_address' }
  if (machine.ready) return REST
  const left = row.ready_timeout_seconds - seconds(machine.started_at ?? now, now)
  if (left > 0) return { do: 'nothing', after_seconds: left }
  return fail(
    'ready_timeout',
    `The guest did not say that it is up within ${row.ready_timeout_seconds} seconds of its start. It was left running; the console log tells more.`,
  )
}

const fail = (code: string, message: string): Step => ({ do: 'fail', code, message })
const seconds = (from: Date, to: Date): number => (to.getTime() - from.getTime()) / 1000

/** What a decision writes before it is carried out: a problem, or the number of a run that nobody wished for. */
export function columnsAfter(row: InstanceRow, step: Step): Partial<InstanceRow> {
  if (step.do === 'fail') return columnsAfterFailure(row, step.code, step.message)
  if (step.do === 'resume') return { observed_recovery_attempts: row.observed_recovery_attempts + 1 }
  if (step.do !== 'start' || !step.recovering) return {}
  const { observed_recovery_attempts: attempts, observed_recoveries: recoveries } = row
  return { observed_recovery_attempts: attempts + 1, observed_recoveries: recoveries + 1 }
}

/** A problem of the present wish; it ends a recovery, too. */
export function columnsAfterFailure(row: InstanceRow, code: string, message: string): Partial<InstanceRow> {
  const problem: Problem = { code, message, run: runOf(row), disk: row.wanted_disk }
  return { observed_problem: problem, observed_recovering: false, observed_recovery_attempts: 0 }
}
