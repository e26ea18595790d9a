/** The crash loop detects each mutant by the invariant that it violates. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crashLoop } from './crash-loop.ts'
import type { MutantName } from './mutants.ts'
import { type Finding, InvariantViolationError } from './watch.ts'

const DETECTED_BY: Record<MutantName, Finding['kind']> = {
  lost_wake: 'wakes',
  double_start: 'machines',
  lost_event: 'events',
  internal_error: 'responses',
}
const SCENARIO = { seed: 1, guests: 2, control_plane_kills: 3, postgres_kills: 1, qemu_kills: 1 }

for (const [mutant, kind] of Object.entries(DETECTED_BY) as [MutantName, Finding['kind']][]) {
  test(`detects ${mutant} by ${kind}`, { timeout: 300_000 }, async (context) => {
    const error = await crashLoop({ ...SCENARIO, mutant }).then(
      () => null,
      (error: unknown) => error,
    )
    assert.ok(error instanceof InvariantViolationError, `not detected: ${error}`)
    const found = error.findings.find((finding) => finding.kind === kind)
    assert.ok(found, error.message)
    context.diagnostic(`${found.kind}: ${found.text}`)
  })
}
