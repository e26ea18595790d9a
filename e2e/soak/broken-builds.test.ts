/** The crash loop is shown builds with a bug of each kind that it is for, and must find it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CrashLoopFailure, crashLoop, type Finding } from '../crash-loop.ts'
import type { PlantedBug } from '../planted-bugs.ts'

const FOUND_AS: Record<PlantedBug, Finding['kind']> = {
  lost_wake: 'lost wake',
  double_start: 'two processes',
  lost_event: 'books',
}
/** Nothing but the load itself, and one crash, so that it does not take long. */
const SHORT = { seed: 7, guests: 1, control_plane_kills: 1, postgres_kills: 0, qemu_kills: 0 }

for (const [planted_bug, kind] of Object.entries(FOUND_AS) as [PlantedBug, Finding['kind']][]) {
  test(`${planted_bug} is found as ${kind}`, { timeout: 600_000 }, async (context) => {
    const failure = await crashLoop({ ...SHORT, planted_bug }).then(
      () => null,
      (error: unknown) => error,
    )
    assert.ok(failure instanceof CrashLoopFailure, `not found: ${failure}`)
    const found = failure.findings.filter((finding) => finding.kind === kind)
    assert.ok(found.length > 0, failure.message)
    context.diagnostic(`${failure.findings.length} findings, the first of them: ${found[0]!.what}`)
  })
}
