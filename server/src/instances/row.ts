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

/** The public status while the machine is on its way to what is wanted. */
export type Activity = 'provisioning' | 'starting' | 'rebooting' | 'resizing'

/** Number of the run that should be there: each start that was wished for, and each after a failure, is a new one. */
export const runOf = (row: Pick<InstanceRow, 'wanted_run' | 'observed_recoveries'>): number =>
  row.wanted_run + row.observed_recoveries

/** Wanted is that it is gone: somebody said so, or its time is up. */
export const isTerminating = (row: Pick<InstanceRow, 'wanted_gone' | 'observed_expired'>): boolean =>
  row.wanted_gone || row.observed_expired

/** Why the wish with this run and disk cannot be met; a wish with other numbers leaves it behind. */
export type Problem = { code: string; message: string; run: number; disk: number }

/** Why a machine went down that nobody stopped. */
export const CAUSES = ['process_died', 'guest_panicked', 'guest_hung', 'host_rebooted', 'disk_error'] as const
export type Cause = (typeof CAUSES)[number]

/** What is remembered of the failures since the last start that somebody wished for; see recovery.ts. */
export type Failures = {
  /** `wanted_run` that they belong to. */
  wish: number
  /** The run that failed last. */
  run: number
  cause: Cause
  /** Since when it is down; null: unknown. */
  down_since: string | null
  /** Failures without ten healthy minutes between them. */
  streak: number
  /** When those of the last half hour were seen. */
  at: string[]
}

/** How a recovery ended: `cancelled` by a stop or a termination. */
export const OUTCOMES = ['recovered', 'failed', 'cancelled'] as const

/** The record of a recovery, from the moment that a failure is seen. Times are ISO texts. */
export type Recovery = {
  /** 1 for the first of its instance. */
  number: number
  cause: Cause
  detected_at: string
  down_since: string | null
  attempts: number
  /** Of the last attempt. */
  started_at: string | null
  ended_at: string | null
  /** Null while it is under way. */
  outcome: (typeof OUTCOMES)[number] | null
}

/** A row of `instances`. `wanted_*`: written by wishes. `observed_*`: written by `observe` alone. */
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
  /** The key that it was made by. */
  created_by: string | null
  /** The budget that counts it. */
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
  /** The size before a change that has not come to its end; null: none is under way. Kept by `save`. */
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
  /** Since when the guest that runs now is up. */
  observed_ready_at: Date | null
  /** Boot of the host at the last look. */
  observed_boot: string | null
  observed_failures: Failures | null
  observed_recovering: boolean
  observed_recovery_attempts: number
  observed_recoveries: number
  observed_problem: Problem | null
  /** A look came after `expires_at`. */
  observed_expired: boolean

  /** The last recovery, or the one that is under way; kept by `save`. */
  recovery: Recovery | null

  status: Status
  status_reason: { code: string; message: string } | null
  version: number
  ready_at: Date | null
  terminated_at: Date | null
}
