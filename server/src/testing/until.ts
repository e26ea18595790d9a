/** Polling for tests: the only place where a test waits for a condition. */
import { systemClock } from '../lib/clock.ts'

/**
 * Resolves once the condition holds. Rejects with the description of what was expected when it does not hold in time.
 * @param interval_ms time between two evaluations
 */
export async function until(expected: string, holds: () => unknown, seconds = 120, interval_ms = 20): Promise<void> {
  const deadline = performance.now() + seconds * 1000
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`timeout after ${seconds} s: ${expected}`)
    await systemClock.sleep(interval_ms)
  }
}
