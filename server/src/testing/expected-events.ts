/**
 * The events and transitions of an instance as the API describes them: a second opinion for the audit and the simulation.
 * It imports nothing of the product, so a mistake of the product is not repeated here. Pure.
 */

/** A row of `instances` as JSON; only the named columns have a meaning of their own here. */
export type RowImage = {
  status: string
  wanted_plan: string
  wanted_size_before: unknown
  wanted_public_ip: string | null
  wanted_disk: number
  observed_ready_disk: number
  [column: string]: unknown
}

/** The statuses that can follow each status. */
const TRANSITIONS: Record<string, string> = {
  provisioning: 'running stopping failed terminating',
  running: 'stopping stopped rebooting resizing recovering provisioning failed terminating',
  stopping: 'stopped failed terminating',
  stopped: 'starting stopping resizing provisioning terminating',
  starting: 'running stopping recovering failed terminating',
  rebooting: 'running stopping recovering failed terminating',
  resizing: 'running stopped recovering failed terminating',
  recovering: 'running stopping failed terminating',
  failed: 'starting provisioning running terminating',
  terminating: 'terminated',
  terminated: '',
}

type Change = (before: RowImage, after: RowImage) => boolean
type Rule = { from?: string; to: string; when?: Change; emits: string | null }

const isFirstBootOfDisk: Change = (before, after) => before.observed_ready_disk < after.wanted_disk

/** Events of a change of status. The first rule that matches applies. */
const STATUS_RULES: Rule[] = [
  { to: 'running', when: isFirstBootOfDisk, emits: 'instance.ready' },
  { from: 'rebooting', to: 'running', emits: 'instance.rebooted' },
  { from: 'recovering', to: 'running', emits: 'instance.recovered' },
  { from: 'resizing', to: 'running', emits: null },
  { from: 'starting failed', to: 'running', emits: 'instance.started' },
  { from: 'resizing', to: 'stopped', emits: null },
  { from: 'running stopping', to: 'stopped', emits: 'instance.stopped' },
  { to: 'terminated', emits: 'instance.terminated' },
  { to: 'failed', emits: 'instance.failed' },
  { to: 'recovering', emits: 'instance.recovering' },
  { to: 'provisioning', emits: null },
  { to: 'starting', emits: null },
  { to: 'stopping', emits: null },
  { to: 'rebooting', emits: null },
  { to: 'resizing', emits: null },
  { to: 'terminating', emits: null },
]

/** Columns that follow from the life of an instance, and what a new disk is made from. A change of any other column is an update. */
const DERIVED = ['status', 'status_reason', 'version', 'updated_at', 'ready_at', 'terminated_at', 'recovery']
const DISK = ['image', 'image_id', 'ssh_user', 'ssh_public_keys', 'user_data']
const isClientField = (column: string) =>
  !/^(wanted|observed)_/.test(column) && !DERIVED.includes(column) && !DISK.includes(column)

const isUpdated: Change = (before, after) =>
  before.wanted_public_ip !== after.wanted_public_ip ||
  Object.keys(after).some(
    (column) => isClientField(column) && JSON.stringify(before[column]) !== JSON.stringify(after[column]),
  )

/** A resize is complete when the size before it is no longer kept; one without work is complete in the request. */
const isScaled: Change = (before, after) =>
  after.wanted_size_before === null && (before.wanted_size_before !== null || before.wanted_plan !== after.wanted_plan)

/**
 * The types of the events that the change emits, in order. `before` is null for a new instance. A change of status without a
 * rule yields a text that is no type, so that it matches no event.
 */
export function expectedEvents(before: RowImage | null, after: RowImage): string[] {
  if (before === null) return ['instance.created']
  return [
    ...(isUpdated(before, after) ? ['instance.updated'] : []),
    ...(isScaled(before, after) ? ['instance.scaled'] : []),
    ...(before.status === after.status ? [] : statusEvents(before, after)),
  ]
}

function statusEvents(before: RowImage, after: RowImage): string[] {
  const rule = STATUS_RULES.find(
    ({ from, to, when }) =>
      to === after.status &&
      (from === undefined || from.split(' ').includes(before.status)) &&
      (when === undefined || when(before, after)),
  )
  if (!rule) return [`no rule for ${before.status} → ${after.status}`]
  return rule.emits === null ? [] : [rule.emits]
}

/** Whether the status may change from one to the other. */
export function isTransition(from: string, to: string): boolean {
  return from === to || (TRANSITIONS[from]?.split(' ').includes(to) ?? false)
}
