/**
 * Which test files each command runs, and in which order. A unit test is quick unless it is listed here: it boots a guest,
 * or takes more than 10 s alone. The lists begin with the longest file, because a long file that starts last leaves the
 * other processors idle. The two files that boot the most guests do not start together, because guests that boot at the
 * same time take the processors from each other. Every run of `npm test` prints its slowest files.
 */
import { globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export const LONG_UNIT_TESTS = [
  'server/src/fuzz/revocation.test.ts',
  'server/src/drivers/qemu/driver.test.ts',
  'server/src/matrix/matrix.test.ts',
  'server/src/http/socket.test.ts',
  'server/src/simulation/simulation.test.ts',
  'server/src/drivers/qemu/machines.test.ts',
  'server/src/drivers/qemu/output.test.ts',
  'server/src/simulation/mutants.test.ts',
  'server/src/matrix/mutants.test.ts',
  'server/src/testing/probes.test.ts',
  'server/src/matrix/writes.test.ts',
  'server/src/drivers/qemu/egress.test.ts',
  'server/src/fuzz/fuzz.test.ts',
  'server/src/fuzz/matrix.test.ts',
  'server/src/fuzz/socket.test.ts',
  'server/src/rate-limits/limiter.test.ts',
  'server/src/images/importer/main.test.ts',
  'server/src/images/reserve.test.ts',
  'server/src/drivers/qemu/crash.test.ts',
  'server/src/drivers/qemu/accelerator.test.ts',
]

/** The end-to-end tests that take longest; the others follow. */
export const LONG_END_TO_END_TESTS = ['e2e/cloud-images.test.ts', 'e2e/crash-loop.test.ts', 'e2e/mutants.test.ts']

/** Run by `npm run test:long` only: they take hours. */
export const SOAK_TESTS = 'e2e/soak/**/*.test.ts'

const ROOT = join(import.meta.dirname, '..')
/** Unit tests that boot guests import it. */
const GUEST_KIT = 'server/src/drivers/qemu/testing.ts'

/** Unit tests, the long ones first; with `quick` only the others. */
export function unitTests({ quick = false } = {}): string[] {
  const others = find('{server/src,scripts}/**/*.test.ts').filter((file) => !LONG_UNIT_TESTS.includes(file))
  return quick ? others : [...LONG_UNIT_TESTS, ...others]
}

/** End-to-end tests, the long ones first. */
export function endToEndTests(): string[] {
  const soak = soakTests()
  const known = [...LONG_END_TO_END_TESTS, ...soak]
  return [...LONG_END_TO_END_TESTS, ...find('e2e/**/*.test.ts').filter((file) => !known.includes(file))]
}

/** Tests that take hours. */
export function soakTests(): string[] {
  return find(SOAK_TESTS)
}

/** True if the test file imports the guest kit, directly or through other files. */
export function bootsGuests(file: string): boolean {
  const seen = new Set<string>()
  const visit = (path: string): boolean => {
    if (path === GUEST_KIT) return true
    if (seen.has(path)) return false
    seen.add(path)
    const imports = readFileSync(join(ROOT, path), 'utf8').matchAll(/^(?:import|export|\}).* from '(\.[^']+\.ts)'$/gm)
    return [...imports].some(([, from]) => visit(join(dirname(path), from!)))
  }
  return visit(file)
}

function find(pattern: string): string[] {
  return globSync(pattern, { cwd: ROOT, exclude: ['**/node_modules/**'] }).sort()
}
