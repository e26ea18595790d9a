import { seededRandom } from '../../lib/random.ts'

/** Failures on demand: the value of the tag `simulate` of an instance in the test environment. */
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

/** Seconds that a simulated guest takes to power off when asked. */
export const POWER_OFF_SECONDS = 2

/** How a simulated machine goes down by itself. */
export type Failure = 'crash' | 'panic' | 'hang' | 'disk_error' | 'host_reboot'

/** Seconds from ready to the failure that was asked for. */
export const FAILS_AFTER_SECONDS = 30

/** How the machine of this run goes down, half a minute after it was up; null: not at all. */
export function failureOf(fault: Fault | null, firstRun: boolean): Failure | null {
  if (fault === 'crash_loop') return 'crash'
  if (!firstRun || !fault?.endsWith('_once')) return null
  return fault.slice(0, -'_once'.length) as Failure
}

/** The failure that an instance's tags ask for, if any. */
export function faultOf(tags: Record<string, string>): Fault | null {
  return FAULTS.find((fault) => fault === tags.simulate) ?? null
}

/** Seconds from start to ready of this machine's run: 8 ± 2, from a seed. */
export function bootSeconds(seed: number, id: string, run: number): number {
  let hash = seed ^ run
  for (const character of id) hash = Math.imul(hash ^ character.charCodeAt(0), 16777619)
  return 6 + seededRandom(hash).integer(4001) / 1000
}
