import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { ControlPlane } from './control-plane.ts'

const MIB = 2 ** 20
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
let plane: ControlPlane

describe('capacity', { timeout: 600_000 }, () => {
  before(async () => {
    // Capacity for exactly 12: each guest takes the 128 MiB of its plan and as much for its machine.
    plane = await ControlPlane.create({ env: { CLOUDNEXUS_MEMORY_BYTES: String(12 * 256 * MIB) } })
  })
  after(() => plane?.teardown())

  test('12 guests that are created concurrently run; the 13th returns 409 until one is terminated', async () => {
    const answers = await Promise.all(Array.from({ length: 13 }, () => plane.call('POST', '/v2/instances', BODY)))
    const made = answers.filter((a) => a.status === 201).map((a) => a.body.id as string)
    const refused = answers.filter((a) => a.status !== 201)
    assert.equal(made.length, 12)
    assert.equal(refused.length, 1)
    const { status, body } = refused[0]!
    assert.deepEqual([status, body.code, body.scope, body.retryable], [409, 'capacity_exhausted', 'host', true])
    assert.equal(body.limit, 12 * 256 * MIB)
    assert.equal(body.used, 12 * 256 * MIB)
    for (const id of made) await plane.waitFor(id, 'running', 300)

    await plane.call('DELETE', `/v2/instances/${made[0]}`)
    await plane.waitFor(made[0]!, 'terminated')
    const again = await plane.call('POST', '/v2/instances', BODY)
    assert.equal(again.status, 201)
    await plane.waitFor(again.body.id, 'running', 300)
  })
})
