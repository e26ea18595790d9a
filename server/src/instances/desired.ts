/** The desired changes that each status allows, and the columns that they write. Pure; `change.ts` runs the transactions. */
import type { Plan } from '../config.ts'
import { ApiError } from '../lib/errors.ts'
import { sizeOf } from './event-details.ts'
import { allowedActions } from './present.ts'
import { type InstanceRow, isTerminating, type Status } from './row.ts'

/** The columns that a desired change writes; empty when nothing changes. */
export type DesiredChange = Partial<InstanceRow>

const STARTED_OR_STARTING: Status[] = ['running', 'provisioning', 'starting', 'rebooting', 'resizing', 'recovering']

/** Starts a new run, unless the instance is running or about to run. */
export function start(row: InstanceRow): DesiredChange {
  if (STARTED_OR_STARTING.includes(row.status)) return {}
  if (row.status !== 'stopped' && row.status !== 'failed') throw invalidState(row, 'It cannot be started now.')
  return { wanted_power: 'running', wanted_run: row.wanted_run + 1, wanted_activity: 'starting' }
}

/** Shuts the guest down, and kills the machine at the timeout. A second stop can only shorten the timeout. */
export function stop(row: InstanceRow, timeoutSeconds: number): DesiredChange {
  if (row.status === 'stopped') return { wanted_power: 'stopped' }
  if (row.status === 'stopping') {
    return timeoutSeconds < row.wanted_stop_timeout_seconds ? { wanted_stop_timeout_seconds: timeoutSeconds } : {}
  }
  if (!allowedActions(row).includes('stop')) throw invalidState(row, 'It cannot be stopped now.')
  return { wanted_power: 'stopped', wanted_stop: row.wanted_stop + 1, wanted_stop_timeout_seconds: timeoutSeconds }
}

/** Shuts the guest down and starts a new run. */
export function reboot(row: InstanceRow, timeoutSeconds: number): DesiredChange {
  if (row.status === 'rebooting') return {}
  if (row.status !== 'running') throw invalidState(row, 'It can be rebooted while it is running.')
  return {
    wanted_run: row.wanted_run + 1,
    wanted_activity: 'rebooting',
    wanted_stop_timeout_seconds: timeoutSeconds,
  }
}

/** Creates a new disk from the image and starts a new run on it. */
export function rebuild(row: InstanceRow): DesiredChange {
  if (!allowedActions(row).includes('rebuild')) throw invalidState(row, 'It cannot be rebuilt now.')
  return {
    wanted_power: 'running',
    wanted_run: row.wanted_run + 1,
    wanted_disk: row.wanted_disk + 1,
    wanted_activity: 'provisioning',
  }
}

/** Changes the plan: by a reboot when the instance is running, without one when it is stopped or about to stop (`stops`). */
export function resize(
  row: InstanceRow,
  plan: Plan,
  options: { allow_reboot: boolean; stops: boolean },
): DesiredChange {
  if (plan.disk_bytes < row.wanted_disk_bytes) {
    const message = `The disk of ${plan.id} is smaller than the disk of the instance. A disk can only grow.`
    throw new ApiError('disk_cannot_shrink', message, {
      errors: [{ pointer: '/plan', code: 'disk_cannot_shrink', message }],
    })
  }
  if (row.status !== 'running' && row.status !== 'stopped') {
    throw invalidState(row, 'The plan can be changed while it is running or stopped.')
  }
  const reboots = row.status === 'running' && !options.stops
  if (reboots && !options.allow_reboot) {
    const detail = 'A new plan reboots the instance. Repeat the request with ?allow_reboot=true, or stop it first.'
    throw new ApiError('reboot_required', detail, { extensions: { current_status: row.status } })
  }
  return {
    wanted_plan: plan.id,
    wanted_vcpus: plan.vcpus,
    wanted_memory_bytes: plan.memory_bytes,
    wanted_disk_bytes: plan.disk_bytes,
    wanted_size_before: sizeOf(row),
    // An instance that stops first has its disk resized by its next start.
    wanted_activity: row.status === 'running' && options.stops ? 'starting' : 'resizing',
    ...(reboots ? { wanted_run: row.wanted_run + 1, wanted_stop_timeout_seconds: 60 } : {}),
  }
}

/** Terminates the instance permanently. */
export function terminate(row: InstanceRow): DesiredChange {
  if (isTerminating(row)) return {}
  if (!row.termination_protection) return { wanted_gone: true }
  const detail = 'The instance is protected. Set termination_protection to false first.'
  throw new ApiError('termination_protected', detail)
}

/** The `invalid_state` error (409), with the actions that are allowed. */
export function invalidState(row: InstanceRow, reason: string): ApiError {
  return new ApiError('invalid_state', `The instance is ${row.status}. ${reason}`, {
    extensions: { current_status: row.status, allowed_actions: allowedActions(row) },
  })
}
