/** Due keys run before the clock advances, also while steps hang or were killed. */
import assert from 'node:assert/strict'
import { after, beforeEach, test } from 'node:test'
import { caller } from '../http/testing.ts'
import { drive, settle } from './drive.ts'
import type { Fault } from './faults.ts'
import { createMatrixWorld, type Worker } from './world.ts'

const world = await createMatrixWorld()
const { owner, faults } = world
after(() => world.close())

const INSTANCE = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
let environment: string
let create: () => Promise<string>
let worker: Worker
beforeEach(async () => {
  const { key, principal } = (await world.tenant()).test
  environment = principal.environment_id
  create = async () => (await caller(world.app, key)('POST', '/v2/instances', INSTANCE)).body.id
  worker = await world.worker('worker')
  faults.lost.clear()
})

const powerOf = async (id: string): Promise<string> => {
  const [row] = await owner<{ power: string }[]>`select observed_power as power from instances where id = ${id}`
  return row!.power
}
const now = async (): Promise<number> => {
  const [row] = await owner<{ now: Date }[]>`select environment_now(${environment}) as now`
  return row!.now.getTime()
}

/** Creates an instance, and kills a step of it at its end. */
async function withLostStep(fault: Fault): Promise<void> {
  const id = await create()
  faults.arm(`instance ${id}`, { point: 'finish', nth: 1, fault })
  await drive(world, worker, environment, 300)
  assert.equal(faults.lost.size, 1)
}

for (const fault of ['killed_before', 'killed_after'] as const) {
  test(`a due key runs while another step was ${fault} its end`, async () => {
    await withLostStep(fault)
    const before = await now()
    const id = await create()
    await settle(world, worker, environment)
    assert.equal(await powerOf(id), 'running')
    assert.equal(await now(), before)
  })
}

test('the clock advances at most to the horizon after a step was killed', async () => {
  await withLostStep('killed_after')
  const before = await now()
  const id = await create()
  await drive(world, worker, environment, 300)
  assert.equal(await powerOf(id), 'running')
  assert.ok((await now()) - before <= 301_000, `${(await now()) - before} ms`)
})

test('a lease lasts until a test ends it', async () => {
  await withLostStep('killed_before')
  const held = await owner<{ endless: boolean }[]>`
    select leased_until = 'infinity' as endless from work where environment_id = ${environment} and leased_by is not null`
  assert.deepEqual(
    [...held].map(({ endless }) => endless),
    [true],
  )
})
