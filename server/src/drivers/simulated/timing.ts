import { seededRandom } from '../../lib/random.ts'

/** Injected faults: the values of the tag `simulate` of an instance in a test environment. */
export const FAULTS = [
  'create_fails',
  'no_capacity',
  'never_ready',
  'crash_once',
  'crash_loop',
  'panic_once',
  'hang_once',
  'disk_error_once',
  'host_reboot_once',
  'guest_powers_off',
  'ignores_power_down',
] as const
export type Fault = (typeof FAULTS)[number]

/** Seconds that a simulated guest takes to power off. */
export const POWER_OFF_SECONDS = 2

/** How a simulated machine fails. */
export type Failure = 'crash' | 'panic' | 'hang' | 'disk_error' | 'host_reboot'

/** Seconds from ready to the injected failure. */
export const FAILS_AFTER_SECONDS = 30

/** How the machine fails in this run; null if it does not fail. */
export function failureOf(fault: Fault | null, firstRun: boolean): Failure | null {
  if (fault === 'crash_loop') return 'crash'
  if (!firstRun || !fault?.endsWith('_once')) return null
  return fault.slice(0, -'_once'.length) as Failure
}

/** The fault that the tags of an instance request, or null. */
export function faultOf(tags: Record<string, string>): Fault | null {
  return FAULTS.find((fault) => fault === tags.simulate) ?? null
}

/** Seconds from start to ready in this run: 8 ± 2, derived from the seed. */
export function bootSeconds(seed: number, id: string, run: number): number {
  let hash = seed ^ run
  for (const character of id) hash = Math.imul(hash ^ character.charCodeAt(0), 16777619)
  return 6 + seededRandom(hash).integer(4001) / 1000
}
