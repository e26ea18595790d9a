import type { ObservedMachine } from '../drivers/driver.ts'
import { failureCauseOf, failuresAfter } from './recovery.ts'
import { type InstanceRow, isTerminating, runOf } from './row.ts'

/** The observed state: columns that only a reconcile pass writes. */
export type Observed = Pick<
  InstanceRow,
  | 'observed_power'
  | 'observed_run'
  | 'observed_stop'
  | 'observed_ready'
  | 'observed_ready_run'
  | 'observed_disk'
  | 'observed_ready_disk'
  | 'observed_vcpus'
  | 'observed_memory_bytes'
  | 'observed_disk_bytes'
  | 'observed_public_ip'
  | 'observed_ports'
  | 'observed_started_at'
  | 'observed_ready_at'
  | 'observed_boot'
  | 'observed_failures'
  | 'observed_recovering'
  | 'observed_recovery_attempts'
  | 'observed_recoveries'
  | 'observed_problem'
  | 'observed_expired'
  | 'ready_at'
>

/** The observed state of a row after observing its machine. Pure and idempotent. */
export function observed(row: InstanceRow, machine: ObservedMachine | null, now: Date): Observed {
  const ready = machine !== null && machine.power === 'running' && machine.ready && machine.trouble === null
  const firstReady = ready && row.observed_ready_disk !== machine.disk
  const recovering = isRecovering(row, machine, ready)
  return {
    observed_power: machine?.power ?? 'absent',
    observed_run: machine?.run ?? row.observed_run,
    observed_stop: row.wanted_stop,
    observed_ready: ready,
    observed_ready_run: ready ? machine.run : row.observed_ready_run,
    observed_disk: machine?.disk ?? 0,
    observed_ready_disk: ready ? machine.disk : row.observed_ready_disk,
    observed_vcpus: machine?.vcpus ?? 0,
    observed_memory_bytes: machine?.memory_bytes ?? 0,
    observed_disk_bytes: machine?.disk_bytes ?? 0,
    observed_public_ip: machine?.public_ip ?? null,
    observed_ports: machine?.ports ?? [],
    observed_started_at: machine?.started_at ?? null,
    observed_ready_at: ready ? (row.observed_ready_at ?? now) : null,
    observed_boot: machine?.host_boot ?? row.observed_boot,
    observed_failures: failuresAfter(row, machine, recovering, now),
    observed_recovering: recovering,
    observed_recovery_attempts: recovering ? row.observed_recovery_attempts : 0,
    observed_recoveries: row.observed_recoveries,
    observed_problem: remainingProblem(row, ready ? machine.run : null),
    observed_expired: row.observed_expired || (row.expires_at !== null && row.expires_at <= now),
    ready_at: firstReady ? now : row.ready_at,
  }
}

/** A recovery begins when a machine that was ready fails, and ends when it is ready again or no longer desired. */
function isRecovering(row: InstanceRow, machine: ObservedMachine | null, ready: boolean): boolean {
  if (!machine || ready || !row.auto_recovery || row.observed_problem) return false
  if (isTerminating(row) || row.wanted_power !== 'running') return false
  if (machine.disk !== row.wanted_disk) return false
  if (row.observed_recovering) return true
  if (machine.run !== runOf(row)) return false
  const cause = failureCauseOf(machine)
  // A guest that was still booting when the host rebooted is recovered, too.
  return cause === 'host_rebooted' || (cause !== null && row.observed_ready_run === machine.run)
}

/** Clears a problem when its run becomes ready after all, or when the desired state has changed since. */
function remainingProblem(row: InstanceRow, readyRun: number | null): InstanceRow['observed_problem'] {
  const problem = row.observed_problem
  if (!problem || problem.run === readyRun) return null
  return problem.run === runOf(row) && problem.disk === row.wanted_disk ? problem : null
}
