/**
 * Recovery from failures, as pure functions: the count of failures, the backoff before the next start, the crash loop
 * that ends the retries, and the record of each recovery.
 *
 * Failures are counted since the last start that a request caused, so a start, reboot or rebuild clears them. There are
 * two counts. The backoff grows with each failure and is reset after ten healthy minutes, as in Kubernetes. A crash loop
 * is detected from the failures of the last 30 minutes, so it also includes guests that become ready and crash again. A
 * reboot of the host is not a failure of the instance: it is not counted and causes no backoff.
 */
import type { ObservedMachine } from '../drivers/driver.ts'
import { type Cause, type Failures, type InstanceRow, isTerminating, type Recovery, runOf } from './row.ts'
import { currentProblem } from './status.ts'

/** Backoff after the n-th consecutive failure; the last value applies to all further failures. */
export const BACKOFF_SECONDS = [0, 10, 20, 40, 80, 160, 300]
/** A guest that was ready for this long has its backoff reset. */
export const HEALTHY_SECONDS = 600
/** Maximum number of failures within the window; one more is a crash loop. */
export const MAX_FAILURES = 5
export const WINDOW_SECONDS = 1800

/** Why a machine failed; null when it did not fail, or its guest powered it off. */
export function failureCauseOf({ power, trouble }: ObservedMachine): Cause | null {
  if (trouble === 'host_reboot') return 'host_rebooted'
  if (power === 'crashed' || power === 'stopped') return 'process_died'
  if (power === 'paused') return trouble === 'panic' || trouble === null ? 'guest_panicked' : 'disk_error'
  return power === 'running' && trouble === 'hang' ? 'guest_hung' : null
}

/** The failures including the one that the observed machine shows; each is counted once. */
export function failuresAfter(row: InstanceRow, machine: ObservedMachine | null, recovering: boolean, now: Date) {
  const known = row.observed_failures?.wish === row.wanted_run ? row.observed_failures : null
  if (!recovering || !machine || machine.run !== runOf(row)) return known
  // A guest that powers itself off before it is ready has failed, too.
  const cause = failureCauseOf(machine) ?? (machine.power === 'off' ? (known?.cause ?? 'process_died') : null)
  if (cause === null) return known
  const counted = row.observed_recovering && known?.run === machine.run
  if (counted && (cause === known.cause || cause !== 'host_rebooted')) return known
  return withFailure(row, known, cause, machine, now)
}

function withFailure(
  row: InstanceRow,
  known: Failures | null,
  cause: Cause,
  machine: ObservedMachine,
  now: Date,
): Failures {
  const since = machine.down_since ?? null
  const down_since = since && (since < now ? since : now).toISOString()
  const failure = { wish: row.wanted_run, run: machine.run, cause, down_since }
  const { streak = 0, at = [] } = known ?? {}
  if (cause === 'host_rebooted') return { ...failure, streak, at }
  const healthy = row.observed_ready_at !== null && seconds(row.observed_ready_at, now) >= HEALTHY_SECONDS
  const recent = at.filter((time) => seconds(new Date(time), now) < WINDOW_SECONDS)
  return { ...failure, streak: healthy ? 1 : streak + 1, at: [...recent, now.toISOString()] }
}

/** Remaining seconds of the backoff before the next start. */
export function backoffLeft({ cause, streak, at }: Failures, now: Date): number {
  const last = at.at(-1)
  if (cause === 'host_rebooted' || last === undefined) return 0
  const wait = BACKOFF_SECONDS[Math.min(Math.max(streak, 1), BACKOFF_SECONDS.length) - 1]!
  return Math.max(0, wait - seconds(new Date(last), now))
}

/** Whether the instance has failed too often to be restarted. */
export const isCrashLoop = ({ cause, at }: Failures): boolean => cause !== 'host_rebooted' && at.length > MAX_FAILURES

/** The recovery in progress, if any. */
export const openRecovery = ({ recovery }: Pick<InstanceRow, 'recovery'>): Recovery | null =>
  recovery?.outcome === null ? recovery : null

/** The record of the last recovery after a change of the row: begun, retried, ended, or unchanged. */
export function recoveryAfter(before: InstanceRow, after: InstanceRow, now: Date): Recovery | null {
  const open = openRecovery(before)
  const wanted = after.wanted_power === 'running' && !isTerminating(after)
  if (after.observed_recovering && wanted && currentProblem(after) === null) {
    const cause = after.observed_failures?.cause ?? 'process_died'
    const base = open ?? startedRecovery(before, after, cause, now)
    const { observed_recovery_attempts: attempts } = after
    const started_at = attempts > base.attempts ? now.toISOString() : base.started_at
    // If the host reboots during the recovery, that becomes its cause.
    return { ...base, attempts, started_at, cause: cause === 'host_rebooted' ? cause : base.cause }
  }
  if (!open) return before.recovery
  const outcome = after.status === 'running' ? 'recovered' : after.status === 'failed' ? 'failed' : 'cancelled'
  return { ...open, outcome, ended_at: now.toISOString() }
}

const startedRecovery = (before: InstanceRow, after: InstanceRow, cause: Cause, now: Date): Recovery => ({
  number: (before.recovery?.number ?? 0) + 1,
  cause,
  detected_at: now.toISOString(),
  down_since: after.observed_failures?.down_since ?? null,
  attempts: 0,
  started_at: null,
  ended_at: null,
  outcome: null,
})

/** Whether the next start needs a recovery slot, because a reboot of the host stopped many instances together. */
export function needsRecoverySlot(row: InstanceRow, machine: ObservedMachine | null): boolean {
  if (!row.observed_recovering || machine?.run !== runOf(row) || machine.power === 'running') return false
  return machine.trouble === 'host_reboot' || openRecovery(row)?.cause === 'host_rebooted'
}

/** Seconds that the guest was down, since the failure or its detection; null until the recovery succeeds. */
export function downtimeSeconds({ down_since, detected_at, ended_at, outcome }: Recovery): number | null {
  if (outcome !== 'recovered' || ended_at === null) return null
  return seconds(new Date(down_since ?? detected_at), new Date(ended_at))
}

const seconds = (from: Date, to: Date): number => (to.getTime() - from.getTime()) / 1000
