/**
 * The time from POST to `running`, compared with the same guest started directly with the same QEMU flags, alternately in
 * one run. The direct start has every advantage: its disk and seed exist before the measurement begins.
 */
import { ControlPlane } from '../e2e/control-plane.ts'
import { DirectGuest } from './lib/direct-guest.ts'
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
const direct = new DirectGuest(plane)
try {
  const ours: number[] = []
  const started: number[] = []
  await create() // Not counted: the first one fills the host's caches.
  for (let i = 0; i < ROUNDS; i++) {
    ours.push(await create())
    started.push(await direct.start())
  }
  const ratio = median(ours) / median(started)
  process.stdout.write(`boot: POST to running    ${summary(ours, 'ms')}\n`)
  process.stdout.write(`boot: direct start       ${summary(started, 'ms')}\n`)
  process.stdout.write(`boot: ratio of medians   ${ratio.toFixed(3)} (at most ${LIMIT})\n`)
} finally {
  await plane.teardown()
}

/** Creates an instance by the API; milliseconds from before the POST until it is reported as running. */
async function create(): Promise<number> {
  const begin = performance.now()
  const { body } = await plane.call('POST', '/v2/instances', BODY)
  await plane.waitFor(body.id, 'running')
  const took = performance.now() - begin
  direct.copyFrom(body.id)
  await plane.call('DELETE', `/v2/instances/${body.id}`)
  await plane.waitFor(body.id, 'terminated')
  return took
}
