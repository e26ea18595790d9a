import type { EventType } from '../events/catalog.ts'
import { pickFields } from './fields.ts'
import { type InstanceRow, isTerminating, type Problem, runOf, type Status } from './row.ts'

/** The transitions that each status allows; a property test checks random histories against this table. */
export const MOVES: Record<Status, readonly Status[]> = {
  provisioning: ['running', 'stopping', 'failed', 'terminating'],
  running: ['stopping', 'stopped', 'rebooting', 'resizing', 'recovering', 'provisioning', 'failed', 'terminating'],
  stopping: ['stopped', 'failed', 'terminating'],
  // Stopped to stopping: a worker that paused for longer than its lease started the machine after it was stopped.
  stopped: ['starting', 'stopping', 'resizing', 'provisioning', 'terminating'],
  starting: ['running', 'stopping', 'recovering', 'failed', 'terminating'],
  rebooting: ['running', 'stopping', 'recovering', 'failed', 'terminating'],
  resizing: ['running', 'stopped', 'recovering', 'failed', 'terminating'],
  recovering: ['running', 'stopping', 'failed', 'terminating'],
  failed: ['starting', 'provisioning', 'running', 'terminating'],
  terminating: ['terminated'],
  terminated: [],
}

/** The problem that prevents the current desired state; null when there is none, or it belongs to an earlier one. */
export function currentProblem(row: InstanceRow): Problem | null {
  const problem = row.observed_problem
  if (!problem || row.wanted_power === 'stopped') return null
  return problem.run === runOf(row) && problem.disk === row.wanted_disk ? problem : null
}

/** Whether the guest of the current run was ready and powered itself off. The instance then stays stopped. */
export function poweredItselfOff(row: InstanceRow): boolean {
  const current = row.observed_run === runOf(row) && row.observed_disk === row.wanted_disk
  return (
    current && row.observed_power === 'off' && row.observed_ready_run === row.observed_run && !row.observed_recovering
  )
}

/** The public status, derived from the desired and the observed state of the row. */
export function statusOf(row: InstanceRow): Pick<InstanceRow, 'status' | 'status_reason'> {
  const plain = (status: Status) => ({ status, status_reason: null })
  if (row.terminated_at) return { status: 'terminated', status_reason: endReason(row) }
  if (isTerminating(row)) return { status: 'terminating', status_reason: endReason(row) }
  const problem = currentProblem(row)
  if (problem) return { status: 'failed', status_reason: { code: problem.code, message: problem.message } }
  if (row.wanted_power === 'stopped' || poweredItselfOff(row)) {
    const on = row.observed_power === 'running' || row.observed_power === 'paused'
    if (on || row.observed_stop < row.wanted_stop) return plain('stopping')
    const growing = row.observed_power !== 'absent' && row.observed_disk_bytes < row.wanted_disk_bytes
    return plain(row.wanted_activity === 'resizing' && growing ? 'resizing' : 'stopped')
  }
  const met =
    row.observed_power === 'running' &&
    row.observed_ready &&
    row.observed_run === runOf(row) &&
    row.observed_disk === row.wanted_disk
  if (met) return plain('running')
  // Until the first boot of a new disk succeeds, the status is that of the request.
  const wasUp = row.observed_ready_disk === row.wanted_disk
  return plain(row.observed_recovering && wasUp ? 'recovering' : row.wanted_activity)
}

/** The size before a resize that is not yet complete; null when there is none. */
export function sizeUnderWay(row: InstanceRow): InstanceRow['wanted_size_before'] {
  return row.status === 'running' || row.status === 'stopped' ? null : row.wanted_size_before
}

/** Why the instance terminates without a request. */
function endReason(row: InstanceRow): InstanceRow['status_reason'] {
  if (row.wanted_gone || !row.observed_expired) return null
  return {
    code: 'expired',
    message: 'The instance expired (expires_at). The budget of the key that created it limits its lifetime.',
  }
}

/** The events to emit for a change of a row. `before` is null for a new instance. */
export function eventsOf(before: InstanceRow | null, after: InstanceRow): EventType[] {
  if (!before) return ['instance.created']
  const from = before.status
  const to = after.status
  const events: EventType[] = []
  const described = (row: InstanceRow) => JSON.stringify([pickFields(row), row.wanted_public_ip])
  if (described(before) !== described(after)) events.push('instance.updated')
  const resized = from === 'resizing' && (to === 'running' || to === 'stopped')
  const changes = before.wanted_size_before !== null || before.wanted_plan !== after.wanted_plan
  if (changes && after.wanted_size_before === null) events.push('instance.scaled')
  if (from === to) return events
  if (to === 'running') {
    if (before.observed_ready_disk < after.wanted_disk) events.push('instance.ready')
    else if (from === 'rebooting') events.push('instance.rebooted')
    else if (from === 'recovering') events.push('instance.recovered')
    else if (!resized) events.push('instance.started')
  }
  if (to === 'stopped' && !resized) events.push('instance.stopped')
  if (to === 'terminated') events.push('instance.terminated')
  if (to === 'failed') events.push('instance.failed')
  if (to === 'recovering') events.push('instance.recovering')
  return events
}
