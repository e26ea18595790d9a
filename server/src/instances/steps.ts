/** The steps that lead from one row to another, in order; shown by a dry run. Pure. */
import { type InstanceRow, runOf } from './row.ts'

/** Names of the steps in a preview. */
export const STEP_NAMES = [
  'import_image',
  'create',
  'power_down',
  'resize_disk',
  'set_public_address',
  'boot',
  'delete',
] as const
export type StepName = (typeof STEP_NAMES)[number]

/** @param before null for a new instance @param imagePresent whether the image of `after` is on the host already */
export function stepsBetween(before: InstanceRow | null, after: InstanceRow, imagePresent: boolean): StepName[] {
  const fresh: StepName[] = [...(imagePresent ? [] : ['import_image' as const]), 'create', 'boot']
  if (before === null) return fresh
  const on = before.observed_power === 'running' || before.observed_power === 'paused'
  if (after.wanted_gone) return before.wanted_gone ? [] : before.observed_power === 'absent' ? [] : ['delete']
  if (after.wanted_disk !== before.wanted_disk) return [...(on ? ['delete' as const] : []), ...fresh]
  const newRun = runOf(after) !== runOf(before)
  const ends = on && (newRun || (after.wanted_power === 'stopped' && before.wanted_power !== 'stopped'))
  const grows = after.wanted_disk_bytes > before.wanted_disk_bytes
  const newAddress = after.wanted_public_ip !== before.wanted_public_ip
  const boots = newRun && after.wanted_power === 'running'
  return [
    ...(ends ? ['power_down' as const] : []),
    ...(grows ? ['resize_disk' as const] : []),
    ...(newAddress && on && !ends ? ['set_public_address' as const] : []),
    ...(boots ? ['boot' as const] : []),
  ]
}
