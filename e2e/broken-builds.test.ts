/** The crash loop is shown builds that are broken on purpose, each in one way, and must say in which. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crashLoop } from './crash-loop.ts'
import type { PlantName } from './plants.ts'
import { BrokenBuildError, type Finding } from './watch.ts'

const FOUND_BY: Record<PlantName, Finding['kind']> = {
  lost_wake: 'wakes',
  double_start: 'machines',
  lost_event: 'events',
}
const SCENARIO = { seed: 1, guests: 2, control_plane_kills: 3, postgres_kills: 1, qemu_kills: 1 }

for (const [plant, kind] of Object.entries(FOUND_BY) as [PlantName, Finding['kind']][]) {
  test(`${plant} is found by ${kind}`, { timeout: 300_000 }, async (context) => {
    const error = await crashLoop({ ...SCENARIO, plant }).then(
      () => null,
      (error: unknown) => error,
    )
    assert.ok(error instanceof BrokenBuildError, `it was not found: ${error}`)
    const found = error.findings.find((finding) => finding.kind === kind)
    assert.ok(found, error.message)
    context.diagnostic(`${found.kind}: ${found.text}`)
  })
}
