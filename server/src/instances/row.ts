import type { PortForward } from '../drivers/driver.ts'
import type { MutableFields } from './fields.ts'

export const STATUSES = [
  'provisioning',
  'running',
  'stopping',
  'stopped',
  'starting',
  'rebooting',
  'resizing',
  'recovering',
  'failed',
  'terminating',
  'terminated',
] as const
export type Status = (typeof STATUSES)[number]

/** The public status until the observed state matches the desired state. */
export type Activity = 'provisioning' | 'starting' | 'rebooting' | 'resizing'

/** Number of the desired run: each requested start, and each restart after a failure, is a new run. */
export const runOf = (row: Pick<InstanceRow, 'wanted_run' | 'observed_recoveries'>): number =>
  row.wanted_run + row.observed_recoveries

/** Whether the instance is to be terminated, by a request or because it expired. */
export const isTerminating = (row: Pick<InstanceRow, 'wanted_gone' | 'observed_expired'>): boolean =>
  row.wanted_gone || row.observed_expired

/** Why the desired state with this run and disk cannot be reached. It does not apply to other runs and disks. */
export type Problem = { code: string; message: string; run: number; disk: number }

/** Causes of the failure of a machine. */
export const CAUSES = ['process_died', 'guest_panicked', 'guest_hung', 'host_rebooted', 'disk_error'] as const
export type Cause = (typeof CAUSES)[number]

/** The failures since the last start that a request caused; see recovery.ts. */
export type Failures = {
  /** The `wanted_run` at the time of these failures. */
  wish: number
  /** The run that failed last. */
  run: number
  cause: Cause
  /** Time since which the machine is down; null when unknown. */
  down_since: string | null
  /** Consecutive failures without ten healthy minutes between them. */
  streak: number
  /** Detection times of the failures within the last 30 minutes. */
  at: string[]
}

/** Outcomes of a recovery; a stop or a termination makes it `cancelled`. */
export const OUTCOMES = ['recovered', 'failed', 'cancelled'] as const

/** The record of a recovery, from the detection of the failure. Times are ISO 8601 strings. */
export type Recovery = {
  /** Starts at 1 for each instance. */
  number: number
  cause: Cause
  detected_at: string
  down_since: string | null
  attempts: number
  /** Start of the last attempt. */
  started_at: string | null
  ended_at: string | null
  /** Null while the recovery is in progress. */
  outcome: (typeof OUTCOMES)[number] | null
}

/** A row of `instances`. Requests write the desired state (`wanted_*`), `observe` the observed state (`observed_*`). */
export type InstanceRow = MutableFields & {
  id: string
  environment_id: string
  mode: 'live' | 'test'
  ordinal: number
  region: string
  hostname: string
  image: string
  image_id: string
  subnet_id: string
  private_ip: string
  mac: string
  ports: number[]
  ssh_public_keys: string[]
  ssh_user: string
  user_data: Uint8Array | null
  deployment_id: string | null
  ready_timeout_seconds: number
  created_at: Date
  updated_at: Date
  expires_at: Date | null
  /** The key that created it. */
  created_by: string | null
  /** The budget that it counts against. */
  budget_id: string | null

  wanted_power: 'running' | 'stopped'
  wanted_gone: boolean
  wanted_run: number
  wanted_stop: number
  wanted_disk: number
  wanted_plan: string
  wanted_vcpus: number
  wanted_memory_bytes: number
  wanted_disk_bytes: number
  /** The size before a resize that is not yet complete; null when there is none. Written by `save`. */
  wanted_size_before: { plan: string; vcpus: number; memory_bytes: number; disk_bytes: number } | null
  wanted_public_ip: string | null
  wanted_activity: Activity
  wanted_at: Date
  wanted_stop_timeout_seconds: number
  wanted_request_id: string | null

  observed_power: 'absent' | 'stopped' | 'running' | 'off' | 'crashed' | 'paused'
  observed_run: number
  observed_stop: number
  observed_ready: boolean
  observed_ready_run: number
  observed_disk: number
  observed_ready_disk: number
  observed_vcpus: number
  observed_memory_bytes: number
  observed_disk_bytes: number
  observed_public_ip: string | null
  observed_ports: PortForward[]
  observed_started_at: Date | null
  /** Time since which the running guest is ready. */
  observed_ready_at: Date | null
  /** Boot ID of the host at the last pass. */
  observed_boot: string | null
  observed_failures: Failures | null
  observed_recovering: boolean
  observed_recovery_attempts: number
  observed_recoveries: number
  observed_problem: Problem | null
  /** Whether a pass ran after `expires_at`. */
  observed_expired: boolean

  /** The last recovery, or the one in progress. Written by `save`. */
  recovery: Recovery | null

  status: Status
  status_reason: { code: string; message: string } | null
  version: number
  ready_at: Date | null
  terminated_at: Date | null
}
