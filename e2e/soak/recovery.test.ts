import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ControlPlane } from '../control-plane.ts'
import { probeMachines } from '../one-machine-per-disk.ts'
import { killRepeatedly, printFigures } from '../recovery-scenario.ts'

test('a real guest recovers from 20 kills and its disk never has two machines', {
  timeout: 1_800_000,
}, async () => {
  const plane = await ControlPlane.create()
  const probe = probeMachines(plane.data_dir)
  try {
    const { figures } = await killRepeatedly(plane, 20)
    printFigures('kill -9', figures)
    assert.deepEqual(probe.stop(), [])
  } finally {
    probe.stop()
    await plane.teardown()
  }
})
