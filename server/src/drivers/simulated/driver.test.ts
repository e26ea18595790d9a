import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Sql } from '../../db/database.ts'
import { createTestDatabase } from '../../db/testing.ts'
import { newId } from '../../lib/id.ts'
import { seededRandom } from '../../lib/random.ts'
import { conformance, type Harness } from '../conformance.ts'
import { type MachineSpec, TransientError } from '../driver.ts'
import { createSimulatedDriver } from './driver.ts'
import { bootSeconds } from './timing.ts'

const START = Date.parse('2030-01-01T00:00:00Z')

async function makeHarness(): Promise<Harness> {
  const { sql, owner } = await createTestDatabase()
  const random = seededRandom(5)
  let now = START
  let made = 0
  const spec = (changes: Partial<MachineSpec> = {}): MachineSpec => {
    const number = ++made
    const network = {
      segment: 1,
      mac: `02:00:0a:4d:00:${String(number).padStart(2, '0')}`,
      private_ip: `10.77.0.${number}`,
      prefix_length: 24,
      public_ip: null,
      ports: [22, 80, 443],
    }
    return {
      id: newId('inst', random),
      environment_id: 'env_1',
      disk: 1,
      run: 1,
      vcpus: 1,
      memory_bytes: 128 * 2 ** 20,
      disk_bytes: 2 ** 30,
      image: { id: 'img_microlinux', folder: 'img_microlinux', boot: null, seed: 'fw_cfg', ready_signal: 'guest' },
      hostname: `m${number}`,
      ssh_public_keys: [],
      user_data: null,
      tags: {},
      ...changes,
      network: { ...network, ...changes.network },
    }
  }
  let boots = 1
  const open = () => createSimulatedDriver({ sql, seed: 1, boot: () => `${boots}` })
  return {
    driver: open(),
    now: () => new Date(now),
    advance: async (ms) => void (now += ms),
    spec,
    publicAddress: () => `198.18.0.${++made}`,
    crash: (id) => crash(owner, id),
    failing: {
      panic: { tags: { simulate: 'panic_once' } },
      hang: { tags: { simulate: 'hang_once' } },
      disk_error: { tags: { simulate: 'disk_error_once' } },
    },
    rebootHost: async () => void boots++,
    reopen: async () => open(),
    cleanup: async () => {},
  }
}

/** Leaves the machine as a fault of the host would. */
const crash = async (sql: Sql, id: string): Promise<void> => {
  await sql`update simulated_machines set machine = machine || '{"power":"crashed"}' where id = ${id}`
}

conformance('simulated', makeHarness)

describe('a simulated failure', () => {
  test('does not happen to a machine that powered off before', async () => {
    const { driver, spec, now, advance } = await makeHarness()
    const machine = spec({ tags: { simulate: 'hang_once' } })
    const get = () => driver.get({ id: machine.id, environment_id: machine.environment_id, now: now() })
    await driver.create(machine, now())
    await driver.start(machine, now())
    await driver.powerDown({ id: machine.id, environment_id: machine.environment_id, now: now() })
    await advance(5_000)
    assert.equal((await get())?.power, 'off')
    await advance(3_600_000)
    assert.equal((await get())?.power, 'off')
  })
})

describe('a call with an old lease', () => {
  test('does not change the machine of a newer claim', async () => {
    const { sql, owner } = await createTestDatabase()
    const driver = createSimulatedDriver({ sql, seed: 1 })
    const { spec, now } = await makeHarness()
    const { environment_id, ...machine } = spec()
    await owner`insert into environments (id, mode) values (${environment_id}, 'system')`
    await owner`
      insert into work (kind, id, environment_id, due_at, lease)
      values ('instance', ${machine.id}, ${environment_id}, now(), 2)`
    const withLease = (lease: number) => ({ ...machine, environment_id, lease, now: now() })
    const isSuperseded = (error: unknown) => error instanceof TransientError && error.code === 'superseded'
    await assert.rejects(driver.create(withLease(1), now()), isSuperseded)
    assert.equal(await driver.get(withLease(1)), null)
    await driver.create(withLease(2), now())
    await assert.rejects(driver.start(withLease(1), now()), isSuperseded)
    await driver.start(withLease(2), now())
    await assert.rejects(driver.kill(withLease(1)), isSuperseded)
    await driver.delete(withLease(1))
    assert.equal((await driver.get(withLease(1)))?.power, 'running')
    await driver.delete(withLease(2))
    assert.equal(await driver.get(withLease(2)), null)
  })
})

describe('simulated time', () => {
  test('a boot takes 8 ± 2 seconds, the same for the same seed, machine and run', () => {
    const inputs = fc.tuple(fc.integer(), fc.stringMatching(/^inst_[0-9a-z]{10}$/), fc.nat())
    fc.assert(
      fc.property(inputs, ([seed, id, run]) => {
        const seconds = bootSeconds(seed, id, run)
        assert.ok(seconds >= 6 && seconds <= 10)
        assert.equal(bootSeconds(seed, id, run), seconds)
      }),
    )
  })

  test('different machines take different times', () => {
    const times = new Set(Array.from({ length: 100 }, (_, i) => bootSeconds(1, `inst_${i}`, 1)))
    assert.ok(times.size > 90)
  })
})
