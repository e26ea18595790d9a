/**
 * From POST to `running`, against the same guest started by hand with the same QEMU flags: the two in turn, in one run.
 * The hand gets every advantage: its disk and seed are made before the clock starts.
 */
import { ControlPlane } from '../e2e/control-plane.ts'
import { ByHand } from './lib/by-hand.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 9)
const LIMIT = 1.1
const BODY = {
  region: 'us-east-1',
  plan: 'micro-1x',
  image: 'micro-linux',
  network: { assign_public_ip: true },
}

const plane = await ControlPlane.create({ open: true })
const hand = new ByHand(plane)
try {
  const ours: number[] = []
  const byHand: number[] = []
  await create() // not counted: the first one fills the caches of the host
  for (let i = 0; i < ROUNDS; i++) {
    ours.push(await create())
    byHand.push(await hand.start())
  }
  const ratio = median(ours) / median(byHand)
  process.stdout.write(`boot: POST to running    ${summary(ours, 'ms')}\n`)
  process.stdout.write(`boot: by hand to ready   ${summary(byHand, 'ms')}\n`)
  process.stdout.write(`boot: ratio of medians   ${ratio.toFixed(3)} (at most ${LIMIT})\n`)
} finally {
  await plane.teardown()
}

/** One guest by the API; milliseconds from before the POST to the answer that it runs. */
async function create(): Promise<number> {
  const begin = performance.now()
  const { body } = await plane.call('POST', '/v2/instances', BODY)
  await plane.waitFor(body.id, 'running')
  const took = performance.now() - begin
  hand.remember(body.id)
  await plane.call('DELETE', `/v2/instances/${body.id}`)
  await plane.waitFor(body.id, 'terminated')
  return took
}
