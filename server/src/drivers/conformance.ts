/**
 * One suite that every driver passes, so that the reconciler may treat them alike. It speaks of nothing but the
 * interface: what a machine is like after each call, that every call may be repeated, and that a machine outlives the
 * object that made it. What only some drivers can be made to do (kill a machine behind its back, be dropped and opened
 * again) is asked of the harness, which leaves it out when it does not apply.
 *
 * Time passes only through `advance`: a real driver waits, the simulated one moves its clock. So the tests wait for
 * states, with a bound, and never for a duration.
 */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Driver, type MachineSpec, type ObservedMachine, TransientError, type Trouble } from './driver.ts'

export type Harness = {
  /** An adopted driver. */
  driver: Driver
  /** The environment's time. */
  now(): Date
  /** Lets so much of the environment's time pass. */
  advance(milliseconds: number): Promise<void>
  /** A machine that can be made here: an id, addresses and a hostname of its own at each call, no public address, no user data. */
  spec(changes?: Partial<MachineSpec>): MachineSpec
  /** A public address that no other machine has. */
  publicAddress(): string
  /** Makes the machine's process die as if by itself. */
  crash?(id: string): Promise<void>
  /** What makes a machine fail like this by itself, once, after it was up. */
  failing: Partial<Record<Trouble, Partial<MachineSpec>>>
  /** Ends all machines as a reboot of the host does. */
  rebootHost(): Promise<void>
  /** Drops the driver without stopping a machine and gives an adopted new one over the same world. */
  reopen?(): Promise<Driver>
  /** Ends all machines and removes every trace. */
  cleanup(): Promise<void>
}

const GIB = 1024 ** 3
const STEP_MS = 100
/** Two minutes: a guest on a busy host without hardware acceleration. */
const MAX_STEPS = 1200

/**
 * Registers the suite for one driver.
 * @param unable failures that nobody can cause here, and why: the names of the tests that are left out say so
 */
export function conformance(
  name: string,
  makeHarness: () => Promise<Harness>,
  unable: Partial<Record<Trouble, string>> = {},
): void {
  describe(`${name} is a driver`, () => {
    let harness: Harness
    let driver: Driver
    before(async () => {
      harness = await makeHarness()
      driver = harness.driver
    })
    after(() => harness?.cleanup())

    const ref = ({ id, environment_id }: MachineSpec) => ({ id, environment_id, now: harness.now() })
    const get = (spec: MachineSpec) => driver.get(ref(spec))

    async function until(spec: MachineSpec, what: string, holds: (machine: ObservedMachine | null) => boolean) {
      for (let step = 0; ; step++) {
        const machine = await get(spec)
        if (holds(machine)) return machine as ObservedMachine
        assert.ok(step < MAX_STEPS, `${what}: still ${JSON.stringify(machine)}`)
        await harness.advance(STEP_MS)
      }
    }
    const untilReady = (spec: MachineSpec) => until(spec, 'ready', (machine) => machine?.ready === true)
    const untilPower = (spec: MachineSpec, power: ObservedMachine['power']) =>
      until(spec, power, (machine) => machine?.power === power)

    async function makeRunning(changes?: Partial<MachineSpec>): Promise<MachineSpec> {
      const spec = harness.spec(changes)
      await driver.create(spec, harness.now())
      await driver.start(spec, harness.now())
      return spec
    }
    async function restart(spec: MachineSpec, changes: Partial<MachineSpec> = {}): Promise<MachineSpec> {
      const next = { ...spec, ...changes, run: spec.run + 1 }
      await driver.start(next, harness.now())
      return next
    }
    async function remove(spec: MachineSpec): Promise<void> {
      await driver.delete(ref(spec))
      await until(spec, 'gone', (machine) => machine === null)
    }

    test('says what it is', () => {
      assert.match(driver.hypervisor().name, /\S/)
      assert.match(driver.hypervisor().reason, /\S/)
      assert.ok(driver.resync_seconds > 0)
    })

    test('a machine that was never made: null, and every wish to end it succeeds', async () => {
      const spec = harness.spec()
      assert.equal(await get(spec), null)
      await driver.powerDown(ref(spec))
      await driver.kill(ref(spec))
      await driver.delete(ref(spec))
      assert.equal((await driver.consoleLog(ref(spec), 100)).length, 0)
      await assert.rejects(driver.start(spec, harness.now()))
    })

    test('create makes a stopped machine, once', async () => {
      const spec = harness.spec()
      await driver.create(spec, harness.now())
      await driver.create(spec, harness.now())
      const machine = await get(spec)
      assert.deepEqual(
        { power: machine?.power, disk: machine?.disk, run: machine?.run, ready: machine?.ready },
        { power: 'stopped', disk: spec.disk, run: 0, ready: false },
      )
      assert.equal(machine?.disk_bytes, spec.disk_bytes)
      assert.equal(machine?.public_ip, null)
      assert.ok((await driver.list()).some(({ id }) => id === spec.id))
      await remove(spec)
      await driver.delete(ref(spec))
      assert.ok(!(await driver.list()).some(({ id }) => id === spec.id))
    })

    test('a whole life: start, ready, power down, start again, kill, grow, rebuild, delete', async () => {
      const public_ip = harness.publicAddress()
      let spec = harness.spec()
      spec = { ...spec, network: { ...spec.network, public_ip, ports: [22] } }
      await driver.create(spec, harness.now())
      const announced: string[] = []
      driver.watch((id) => announced.push(id))

      await driver.start(spec, harness.now())
      const started = await get(spec)
      assert.equal(started?.power, 'running')
      assert.equal(started?.ready, false, 'a guest is not up at once')
      await driver.start(spec, harness.now())
      const first = await untilReady(spec)
      assert.deepEqual(first.started_at, started?.started_at, 'the same run was not started twice')
      assert.deepEqual([first.run, first.vcpus, first.memory_bytes], [spec.run, spec.vcpus, spec.memory_bytes])
      assert.equal(first.public_ip, public_ip)
      assert.deepEqual(
        first.ports.map((port) => port.guest_port),
        [22],
      )
      assert.equal(first.trouble, null)
      assert.ok(announced.includes(spec.id), 'the change was announced')
      await assert.rejects(driver.start({ ...spec, run: spec.run + 1 }, harness.now()), TransientError)
      assert.equal((await get(spec))?.run, spec.run, 'a newer run does not start beside an older one')

      await driver.powerDown(ref(spec))
      await untilPower(spec, 'off')
      await driver.powerDown(ref(spec))
      assert.equal((await get(spec))?.power, 'off', 'and it stays known who ended it')

      const memory_bytes = spec.memory_bytes * 2
      const disk_bytes = spec.disk_bytes + GIB
      spec = await restart(spec, { memory_bytes, disk_bytes })
      assert.equal((await get(spec))?.ready, false, 'ready belongs to a run')
      const second = await untilReady(spec)
      assert.deepEqual([second.run, second.memory_bytes, second.disk_bytes], [spec.run, memory_bytes, disk_bytes])

      await driver.kill(ref(spec))
      assert.equal((await get(spec))?.power, 'stopped')
      await driver.kill(ref(spec))

      spec = { ...spec, disk_bytes: disk_bytes + GIB }
      await driver.resizeDisk(spec, harness.now())
      await driver.resizeDisk(spec, harness.now())
      assert.equal((await get(spec))?.disk_bytes, disk_bytes + GIB)

      spec = { ...spec, disk: spec.disk + 1, run: spec.run + 1 }
      await driver.create(spec, harness.now())
      assert.equal((await get(spec))?.disk, spec.disk)
      await driver.start(spec, harness.now())
      assert.equal((await untilReady(spec)).run, spec.run)

      await driver.delete(ref(spec))
      await until(spec, 'gone', (machine) => machine === null)
    })

    test('while a machine runs: its console can be read, its public address comes and goes', async () => {
      const spec = await makeRunning()
      const running = await untilReady(spec)
      const consoleLog = (bytes: number) => driver.consoleLog(ref(spec), bytes)
      for (let step = 0; (await consoleLog(65536)).length === 0; step++) {
        assert.ok(step < MAX_STEPS, 'the guest said something')
        await harness.advance(STEP_MS)
      }
      assert.ok((await consoleLog(4)).length <= 4)
      assert.deepEqual([running.public_ip, running.ports], [null, []])
      const public_ip = harness.publicAddress()
      const reachable = { ...spec, network: { ...spec.network, public_ip, ports: [22, 8000] } }
      for (let times = 0; times < 2; times++) {
        await driver.setPublicAddress(reachable, harness.now())
        const machine = await get(spec)
        assert.equal(machine?.public_ip, public_ip)
        assert.deepEqual(
          machine?.ports.map((port) => port.guest_port),
          [22, 8000],
        )
        assert.deepEqual(machine?.started_at, running.started_at, 'without a reboot')
      }
      for (let times = 0; times < 2; times++) {
        await driver.setPublicAddress(spec, harness.now())
        const machine = await get(spec)
        assert.deepEqual([machine?.public_ip, machine?.ports, machine?.power], [null, [], 'running'])
      }
      await remove(spec)
    })

    test('a machine that dies by itself has crashed, and starts again', async (context) => {
      if (!harness.crash) return context.skip('this driver cannot be made to crash a machine')
      let spec = await makeRunning()
      await untilReady(spec)
      await harness.crash(spec.id)
      assert.equal((await untilPower(spec, 'crashed')).run, spec.run)
      await driver.powerDown(ref(spec))
      spec = await restart(spec)
      assert.equal((await untilReady(spec)).power, 'running')
      await remove(spec)
    })

    const FAILURES = { panic: 'paused', hang: 'running', disk_error: 'paused' } as const
    for (const [trouble, power] of Object.entries(FAILURES)) {
      const reason = unable[trouble as Trouble]
      const title = `a machine with the trouble ${trouble} says so, is ended, and starts again`
      test(reason ? `${title} (skipped: ${reason})` : title, { skip: reason !== undefined }, async () => {
        const changes = harness.failing[trouble as Trouble]
        assert.ok(changes, 'the harness neither causes it nor says why not')
        const announced: string[] = []
        driver.watch((id) => announced.push(id))
        let spec = await makeRunning(changes)
        await untilReady(spec)
        const isDown = (machine: ObservedMachine | null) => machine?.trouble === trouble && machine.down_since != null
        const failed = await until(spec, trouble, isDown)
        assert.deepEqual([failed.power, failed.run], [power, spec.run])
        assert.ok(failed.down_since && failed.down_since <= harness.now(), 'it is known since when')
        assert.ok(announced.includes(spec.id), 'it was announced')
        await driver.resume(ref(spec))
        if (trouble === 'disk_error') {
          const on = await get(spec)
          assert.deepEqual([on?.power, on?.trouble, on?.run], ['running', null, spec.run])
        } else assert.equal((await get(spec))?.trouble, trouble, 'only a disk can go on')
        await driver.kill(ref(spec))
        const ended = await get(spec)
        assert.deepEqual([ended?.power, ended?.trouble], ['stopped', null])
        spec = await restart(spec)
        assert.equal((await untilReady(spec)).trouble, null)
        await remove(spec)
      })
    }

    test('a reboot of the host ends what runs, and what does not is as it was', async () => {
      let [running, stopped] = [await makeRunning(), await makeRunning()]
      const before = await untilReady(running)
      await driver.kill(ref(stopped))
      await harness.rebootHost()
      const lost = await untilPower(running, 'crashed')
      assert.deepEqual([lost.trouble, lost.run, lost.disk], ['host_reboot', running.run, running.disk])
      assert.equal(typeof before.host_boot, 'string')
      const left = await get(stopped)
      assert.deepEqual([left?.power, left?.trouble], ['stopped', null])
      running = await restart(running)
      assert.equal((await untilReady(running)).trouble, null)
      stopped = await restart(stopped)
      await untilReady(stopped)
      await remove(running)
      await remove(stopped)
    })

    test('a machine outlives the driver', async (context) => {
      if (!harness.reopen) return context.skip('this driver has no second life')
      const [running, stopped] = [await makeRunning(), harness.spec()]
      await driver.create(stopped, harness.now())
      const before = await untilReady(running)
      await driver.close()
      driver = await harness.reopen()
      assert.deepEqual(await get(running), before)
      assert.equal((await get(stopped))?.power, 'stopped')
      const ids = (await driver.list()).map(({ id }) => id)
      assert.ok(ids.includes(running.id) && ids.includes(stopped.id))
      await driver.powerDown(ref(running))
      await untilPower(running, 'off')
      await remove(running)
      await remove(stopped)
    })
  })
}
