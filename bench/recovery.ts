/**
 * The downtime of a guest after a kill -9 of its QEMU, compared with a direct start with the same flags on a disk that a
 * kill left behind too, alternately in one run.
 */
import { ControlPlane } from '../e2e/control-plane.ts'
import { GUEST, killOnce, resetFailures } from '../e2e/recovery-scenario.ts'
import { DirectGuest } from './lib/direct-guest.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 9)

const plane = await ControlPlane.create({ open: true })
const direct = new DirectGuest(plane)
try {
  // Without a public IP address, which only one of the two could have.
  const { body } = await plane.call('POST', '/v2/instances', { ...GUEST, network: {} })
  await plane.waitFor(body.id, 'running')
  direct.copyFrom(body.id)
  await direct.start('new disk') // Not counted: the first boot of a disk does more.
  const down: number[] = []
  const detected: number[] = []
  const started: number[] = []
  for (let i = 0; i < ROUNDS; i++) {
    const { detect, downtime } = await killOnce(plane, body.id)
    down.push(downtime * 1000)
    detected.push(detect * 1000)
    started.push(await direct.start('same disk'))
    await resetFailures(plane, body.id)
  }
  const beyond = median(down) - median(started)
  process.stdout.write(`recovery: kill to detection    ${summary(detected, 'ms')} (at most 1000)\n`)
  process.stdout.write(`recovery: kill to ready        ${summary(down, 'ms')}\n`)
  process.stdout.write(`recovery: direct start         ${summary(started, 'ms')}\n`)
  process.stdout.write(`recovery: ratio of medians     ${(median(down) / median(started)).toFixed(3)}\n`)
  process.stdout.write(`recovery: beyond direct start  ${beyond.toFixed(0)} ms (at most 1000)\n`)
} finally {
  await plane.teardown()
}
