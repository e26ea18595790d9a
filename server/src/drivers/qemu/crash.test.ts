/** Kills the control plane at random times; afterwards nothing runs twice, nothing is partial and all machines are usable. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { systemClock } from '../../lib/clock.ts'
import { systemRandom } from '../../lib/random.ts'
import { type MachineSpec, TransientError } from '../driver.ts'
import { instancesFolder, scratchOwner } from './machine-files.ts'
import { findMachineProcesses } from './process.ts'
import { makeWorld, until, type World } from './testing.ts'

const ROUNDS = 4

/** A control plane that runs the lifecycle of machines in a loop, from any state. */
const CONTROL_PLANE = `
  import { QemuDriver } from '${new URL('./driver.ts', import.meta.url)}'
  import { unfiltered } from '${new URL('./egress.ts', import.meta.url)}'
  import { openScope } from '${new URL('./scope.ts', import.meta.url)}'
  import { systemClock } from '${new URL('../../lib/clock.ts', import.meta.url)}'
  import { silentLog } from '${new URL('../../lib/log.ts', import.meta.url)}'
  const { options, specs } = JSON.parse(process.argv[1])
  const [scope, egress] = [await openScope(options.installation_id), unfiltered('a test')]
  const driver = new QemuDriver({ ...options, scope, egress, clock: systemClock, log: silentLog })
  await driver.adopt()
  console.log('adopted')
  const now = systemClock.now()
  await Promise.all(specs.map(async (spec) => {
    const ref = { id: spec.id, environment_id: spec.environment_id, now }
    const seen = await driver.get(ref)
    let run = seen?.run ?? 0
    let disk = seen?.disk || 1
    for (;;) {
      await driver.kill(ref)
      await driver.create({ ...spec, disk })
      await driver.start({ ...spec, disk, run: ++run }, now)
      await driver.kill(ref)
      if (run % 3 === 0) disk++
      if (run % 5 === 0) await driver.delete(ref)
    }
  }))
`

async function killOnce(world: World, specs: MachineSpec[]): Promise<void> {
  const { clock: _clock, log: _log, egress: _egress, scope: _scope, ...options } = world.options
  const argv = ['--input-type=module', '-e', CONTROL_PLANE, '--', JSON.stringify({ options, specs })]
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  const [line] = await Promise.race([once(child.stdout, 'data'), ended])
  assert.equal(String(line), 'adopted\n')
  await systemClock.sleep(systemRandom.integer(500))
  assert.equal(child.exitCode, null, 'it runs until it is killed')
  child.kill('SIGKILL')
  await ended
}

test('the control plane recovers after a kill at any time', async () => {
  const world = await makeWorld()
  try {
    const specs = [world.spec(), world.spec(), world.spec()]
    const instances = instancesFolder(world.options)
    await world.driver.close()
    for (let round = 0; round < ROUNDS; round++) {
      await killOnce(world, specs)
      const driver = await world.reopen()
      assert.ok(
        (await readdir(instances)).every((name) => scratchOwner(name) === null),
        'leftovers are removed',
      )
      for (const spec of specs) {
        const machine = await driver.get({ id: spec.id, environment_id: spec.environment_id, now: systemClock.now() })
        const folders = (await findMachineProcesses(instances)).filter(({ folder }) => folder.endsWith(spec.id))
        assert.ok(folders.length <= 1, 'at most one process')
        assert.equal(machine?.power === 'running', folders.length === 1)
        if (machine?.power !== 'running') continue
        await driver.start({ ...spec, disk: machine.disk, run: machine.run }, systemClock.now())
        const next = { ...spec, disk: machine.disk, run: machine.run + 1 }
        await assert.rejects(driver.start(next, systemClock.now()), TransientError)
      }
      await driver.close()
    }
    const driver = await world.reopen()
    const [spec] = specs
    const ref = (id: string) => ({ id, environment_id: spec!.environment_id, now: systemClock.now() })
    const seen = await driver.get(ref(spec!.id))
    const last = { ...spec!, disk: (seen?.disk ?? 0) + 1, run: (seen?.run ?? 0) + 1 }
    await driver.kill(ref(last.id))
    await driver.create(last)
    await driver.start(last, systemClock.now())
    await until(driver, last, ({ ready }) => ready)
    for (const { id } of specs) await driver.delete(ref(id))
    assert.deepEqual(await driver.list(), [])
    assert.deepEqual(await findMachineProcesses(instances), [])
    assert.deepEqual(await readdir(instances), [])
    assert.deepEqual(await readdir(world.options.run_dir), [])
  } finally {
    await world.remove()
  }
})
