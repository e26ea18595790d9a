import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createSimulatedDriver } from '../drivers/simulated/driver.ts'
import { claim, finish } from '../engine/work.ts'
import { caller, createTestApp } from '../http/testing.ts'
import { CATALOGUE } from '../images/catalog.ts'
import { syncCatalogue } from '../images/store.ts'
import { releaseUnusedAddresses } from './orphans.ts'
import { openNetworks } from './testing-world.ts'

test('releases an unwanted address only after a pass has observed that no machine has it', async () => {
  const base = await createTestApp((sql) => {
    const driver = createSimulatedDriver({ sql, seed: 1 })
    return { regions: [{ id: 'us-east-1', name: 'This host', drivers: { live: driver, test: driver } }] }
  })
  const { owner, deps } = base
  await openNetworks(owner, base)
  await owner.begin((tx) => syncCatalogue(tx, CATALOGUE))
  const call = caller(base.app, base.test.key)
  const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', network: { assign_public_ip: true } }
  const { id, public_ip } = (await call('POST', '/v2/instances', body)).body
  const given = await call('PATCH', `/v2/instances/${id}`, { network: { assign_public_ip: false } })
  assert.equal(given.status, 200)

  const isHeld = async () => {
    await releaseUnusedAddresses(deps.sql)
    return (await owner`select from addresses where address = ${public_ip}`).count > 0
  }
  // No engine runs here: a machine may have been started with the address, and no pass has observed it yet.
  assert.equal(await isHeld(), true, 'a pass is due')
  const [pass] = await claim(deps.sql, 'a test', ['instance'], 1)
  assert.equal(await isHeld(), true, 'a pass is running')
  await finish(deps.sql, pass!, 60)
  assert.equal(await isHeld(), false, 'a pass has observed that no machine has it')
})
