/**
 * How long a guest is down after a kill -9 of its QEMU, against its own boot by hand with the same flags, on a disk that
 * was left by a kill as well: the two in turn, in one run.
 */
import { ControlPlane } from '../e2e/control-plane.ts'
import { beginAnew, GUEST, killOnce } from '../e2e/recovery-scenario.ts'
import { ByHand } from './lib/by-hand.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 9)

const plane = await ControlPlane.create({ open: true })
const hand = new ByHand(plane)
try {
  // Without a public address, which only one of the two could have.
  const { body } = await plane.call('POST', '/v2/instances', { ...GUEST, network: {} })
  await plane.waitFor(body.id, 'running')
  hand.remember(body.id)
  await hand.start('new disk') // not counted: the first boot of a disk does more
  const down: number[] = []
  const detected: number[] = []
  const byHand: number[] = []
  for (let i = 0; i < ROUNDS; i++) {
    const { detect, downtime } = await killOnce(plane, body.id)
    down.push(downtime * 1000)
    detected.push(detect * 1000)
    byHand.push(await hand.start('same disk'))
    await beginAnew(plane, body.id)
  }
  const beyond = median(down) - median(byHand)
  process.stdout.write(`recovery: kill to seen         ${summary(detected, 'ms')} (at most 1000)\n`)
  process.stdout.write(`recovery: kill to up again     ${summary(down, 'ms')}\n`)
  process.stdout.write(`recovery: own boot by hand     ${summary(byHand, 'ms')}\n`)
  process.stdout.write(`recovery: ratio of medians     ${(median(down) / median(byHand)).toFixed(3)}\n`)
  process.stdout.write(`recovery: beyond its own boot  ${beyond.toFixed(0)} ms (at most 1000)\n`)
} finally {
  await plane.teardown()
}
