/**
 * What failures lead to, as pure functions: how they are counted, how long is waited before the next start, when it is
 * given up, and the record that is kept of each recovery.
 *
 * Failures are counted since the last start that somebody wished for, so a start, reboot or rebuild clears them. Two
 * counts differ on purpose: the wait grows with each failure and is forgotten after ten healthy minutes, as Kubernetes
 * does it; giving up looks at the last half hour, so a guest that comes up and dies for ever is given up as well. A
 * reboot of the host is no failure of the instance: it is neither waited for nor counted.
 */
import type { ObservedMachine } from '../drivers/driver.ts'
import { type Cause, type Failures, type InstanceRow, isTerminating, type Recovery, runOf } from './row.ts'
import { currentProblem } from './status.ts'

/** Seconds to wait after the n-th failure in a row; after more of them, the last. */
export const BACKOFF_SECONDS = [0, 10, 20, 40, 80, 160, 300]
/** A guest that was up for so long has left its failures behind, as far as the wait goes. */
export const HEALTHY_SECONDS = 600
/** So many failures within the window are recovered from; one more, and it is a crash loop. */
export const MAX_FAILURES = 5
export const WINDOW_SECONDS = 1800

/** Why a machine is down by itself; null: it is not, or its guest powered it off. */
export function failureCauseOf({ power, trouble }: ObservedMachine): Cause | null {
  if (trouble === 'host_reboot') return 'host_rebooted'
  if (power === 'crashed' || power === 'stopped') return 'process_died'
  if (power === 'paused') return trouble === 'panic' || trouble === null ? 'guest_panicked' : 'disk_error'
  return power === 'running' && trouble === 'hang' ? 'guest_hung' : null
}

/** The failures, with the one that a look at the machine shows; each is counted once. */
export function failuresAfter(row: InstanceRow, machine: ObservedMachine | null, recovering: boolean, now: Date) {
  const known = row.observed_failures?.wish === row.wanted_run ? row.observed_failures : null
  if (!recovering || !machine || machine.run !== runOf(row)) return known
  // A guest that powers itself off before it is up has failed, too.
  const cause = failureCauseOf(machine) ?? (machine.power === 'off' ? (known?.cause ?? 'process_died') : null)
  if (cause === null) return known
  const seen = row.observed_recovering && known?.run === machine.run
  if (seen && (cause === known.cause || cause !== 'host_rebooted')) return known
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
  const lately = at.filter((time) => seconds(new Date(time), now) < WINDOW_SECONDS)
  return { ...failure, streak: healthy ? 1 : streak + 1, at: [...lately, now.toISOString()] }
}

/** Seconds that are left of the wait before the next start. */
export function backoffLeft({ cause, streak, at }: Failures, now: Date): number {
  const last = at.at(-1)
  if (cause === 'host_rebooted' || last === undefined) return 0
  const wait = BACKOFF_SECONDS[Math.min(Math.max(streak, 1), BACKOFF_SECONDS.length) - 1]!
  return Math.max(0, wait - seconds(new Date(last), now))
}

/** Whether it has failed too often to be started once more. */
export const isCrashLoop = ({ cause, at }: Failures): boolean => cause !== 'host_rebooted' && at.length > MAX_FAILURES

/** The recovery that is under way, if one is. */
export const openRecovery = ({ recovery }: Pick<InstanceRow, 'recovery'>): Recovery | null =>
  recovery?.outcome === null ? recovery : null

/** The record of the last recovery, after a change of the row: begun, tried again, ended, or as it was. */
export function recoveryAfter(before: InstanceRow, after: InstanceRow, now: Date): Recovery | null {
  const open = openRecovery(before)
  const wanted = after.wanted_power === 'running' && !isTerminating(after)
  if (after.observed_recovering && wanted && currentProblem(after) === null) {
    const cause = after.observed_failures?.cause ?? 'process_died'
    const base = open ?? startedRecovery(before, after, cause, now)
    const { observed_recovery_attempts: attempts } = after
    const started_at = attempts > base.attempts ? now.toISOString() : base.started_at
    // A host that is rebooted meanwhile is why it waits from now on.
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

/** Whether the next start of this instance has to wait for its turn, because many went down at once with their host. */
export function needsRecoverySlot(row: InstanceRow, machine: ObservedMachine | null): boolean {
  if (!row.observed_recovering || machine?.run !== runOf(row) || machine.power === 'running') return false
  return machine.trouble === 'host_reboot' || openRecovery(row)?.cause === 'host_rebooted'
}

/** Seconds that the guest was down, from when it is known; null while it is. */
export function downtimeSeconds({ down_since, detected_at, ended_at, outcome }: Recovery): number | null {
  if (outcome !== 'recovered' || ended_at === null) return null
  return seconds(new Date(down_since ?? detected_at), new Date(ended_at))
}

const seconds = (from: Date, to: Date): number => (to.getTime() - from.getTime()) / 1000
