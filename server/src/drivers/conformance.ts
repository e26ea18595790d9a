/**
 * The test suite that every driver passes, so that the reconciler can treat all drivers alike. It uses only the driver
 * interface: the observed state after each call, that every call can be repeated, and that machines outlive the driver
 * object. What only some drivers support (crashing a machine, reopening the driver) is optional in the harness.
 *
 * Time passes only through `advance`: with a real driver it waits, with the simulated driver it moves the clock. The tests
 * wait for states with a limit, never for a duration.
 *
 * Booting a guest is the slowest step, so most tests use one machine in order, and the machines that fail by themselves
 * are started first and examined later.
 */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Driver, type MachineSpec, type ObservedMachine, TransientError, type Trouble } from './driver.ts'

export type Harness = {
  /** An adopted driver. */
  driver: Driver
  /** The environment's time. */
  now(): Date
  /** Lets this much of the environment's time pass. */
  advance(milliseconds: number): Promise<void>
  /** A new machine specification with a unique ID, IP address and hostname, no public IP address and no user data. */
  spec(changes?: Partial<MachineSpec>): MachineSpec
  /** A public IP address that no other machine has. */
  publicAddress(): string
  /** Kills the process of a machine behind the driver's back. */
  crash?(id: string): Promise<void>
  /** Changes to a specification that make its machine fail once, after it was ready. */
  failing: Partial<Record<Trouble, Partial<MachineSpec>>>
  /** Ends all machines as a reboot of the host does. */
  rebootHost(): Promise<void>
  /** Discards the driver without stopping a machine and returns a new, adopted driver for the same machines. */
  reopen?(): Promise<Driver>
  /** Ends all machines and removes their files. */
  cleanup(): Promise<void>
}

const GIB = 1024 ** 3
const STEP_MS = 100
/** Two minutes, for a guest on a busy host without hardware acceleration. */
const MAX_STEPS = 1200
const FAILURES = { panic: 'paused', hang: 'running', disk_error: 'paused' } as const
type Failure = keyof typeof FAILURES

/**
 * Registers the suite for a driver.
 * @param unable failures that the harness cannot cause, and the reason; their tests are skipped
 */
export function conformance(
  name: string,
  makeHarness: () => Promise<Harness>,
  unable: Partial<Record<Trouble, string>> = {},
): void {
  describe(`the ${name} driver`, () => {
    const subject = new Subject()
    before(async () => {
      await subject.open(await makeHarness())
      for (const failure of Object.keys(FAILURES) as Failure[]) await subject.startFailing(failure)
    })
    after(() => subject.harness?.cleanup())
    testAbsentAndStopped(subject)
    testLifecycle(subject)
    testWhileRunning(subject)
    testRebuildAndCrash(subject)
    for (const failure of Object.keys(FAILURES) as Failure[]) testFailure(subject, failure, unable[failure])
    testHostReboot(subject)
    testReopen(subject)
  })
}

/** The driver under test, and the machine that the tests use one after the other. */
class Subject {
  harness!: Harness
  driver!: Driver
  machine!: MachineSpec
  readonly announced: string[] = []
  readonly failing = new Map<Failure, { spec: MachineSpec; ready: Promise<ObservedMachine> }>()

  async open(harness: Harness): Promise<void> {
    this.harness = harness
    this.driver = harness.driver
    this.driver.watch((id) => this.announced.push(id))
    const spec = harness.spec()
    this.machine = { ...spec, network: { ...spec.network, public_ip: harness.publicAddress(), ports: [22] } }
  }

  async startFailing(failure: Failure): Promise<void> {
    const changes = this.harness.failing[failure]
    if (!changes) return
    const spec = await this.makeRunning(changes)
    const ready = this.untilReady(spec)
    ready.catch(() => {}) // its test awaits it later
    this.failing.set(failure, { spec, ready })
  }

  now = () => this.harness.now()
  ref = ({ id, environment_id }: MachineSpec) => ({ id, environment_id, now: this.now() })
  get = (spec: MachineSpec) => this.driver.get(this.ref(spec))

  async until(spec: MachineSpec, what: string, holds: (machine: ObservedMachine | null) => boolean) {
    for (let step = 0; ; step++) {
      const machine = await this.get(spec)
      if (holds(machine)) return machine as ObservedMachine
      assert.ok(step < MAX_STEPS, `${what}: still ${JSON.stringify(machine)}`)
      await this.harness.advance(STEP_MS)
    }
  }
  untilReady = (spec: MachineSpec) => this.until(spec, 'ready', (machine) => machine?.ready === true)
  untilPower = (spec: MachineSpec, power: ObservedMachine['power']) =>
    this.until(spec, power, (machine) => machine?.power === power)

  async makeRunning(changes?: Partial<MachineSpec>): Promise<MachineSpec> {
    const spec = this.harness.spec(changes)
    await this.driver.create(spec, this.now())
    await this.driver.start(spec, this.now())
    return spec
  }
  async restart(spec: MachineSpec, changes: Partial<MachineSpec> = {}): Promise<MachineSpec> {
    const next = { ...spec, ...changes, run: spec.run + 1 }
    await this.driver.start(next, this.now())
    return next
  }
  async remove(spec: MachineSpec): Promise<void> {
    await this.driver.delete(this.ref(spec))
    await this.until(spec, 'deleted', (machine) => machine === null)
  }
}

function testAbsentAndStopped(subject: Subject): void {
  const { ref, get } = subject

  test('names its hypervisor and its resync interval', () => {
    assert.match(subject.driver.hypervisor().name, /\S/)
    assert.match(subject.driver.hypervisor().reason, /\S/)
    assert.ok(subject.driver.resync_seconds > 0)
  })

  test('an absent machine is null, and ending it succeeds', async () => {
    const { driver, harness } = subject
    const spec = harness.spec()
    assert.equal(await get(spec), null)
    await driver.powerDown(ref(spec))
    await driver.kill(ref(spec))
    await driver.delete(ref(spec))
    assert.equal((await driver.consoleLog(ref(spec), 100)).length, 0)
    await assert.rejects(driver.start(spec, harness.now()))
  })

  test('create makes a stopped machine and can be repeated', async () => {
    const { driver, harness } = subject
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
    await subject.remove(spec)
    await driver.delete(ref(spec))
    assert.ok(!(await driver.list()).some(({ id }) => id === spec.id))
  })
}

function testLifecycle(subject: Subject): void {
  const { ref, get } = subject

  test('start can be repeated, and the guest becomes ready', async () => {
    const { driver, machine: spec } = subject
    await driver.create(spec, subject.now())
    await driver.start(spec, subject.now())
    const started = await get(spec)
    assert.equal(started?.power, 'running')
    assert.equal(started?.ready, false, 'a guest needs time to boot')
    await driver.start(spec, subject.now())
    const first = await subject.untilReady(spec)
    assert.deepEqual(first.started_at, started?.started_at, 'the run was started once')
    assert.deepEqual([first.run, first.vcpus, first.memory_bytes], [spec.run, spec.vcpus, spec.memory_bytes])
    assert.equal(first.public_ip, spec.network.public_ip)
    assert.deepEqual(
      first.ports.map((port) => port.guest_port),
      [22],
    )
    assert.equal(first.trouble, null)
    assert.ok(subject.announced.includes(spec.id), 'the change was announced')
    await assert.rejects(driver.start({ ...spec, run: spec.run + 1 }, subject.now()), TransientError)
    assert.equal((await get(spec))?.run, spec.run, 'a new run does not start beside an old one')
  })

  test('powerDown powers the guest off and can be repeated', async () => {
    const { driver, machine: spec } = subject
    await driver.powerDown(ref(spec))
    await subject.untilPower(spec, 'off')
    await driver.powerDown(ref(spec))
    assert.equal((await get(spec))?.power, 'off', 'the machine is still powered off by its guest')
  })

  test('the next run has the new size and no public IP address', async () => {
    const { machine: before } = subject
    const memory_bytes = before.memory_bytes * 2
    const disk_bytes = before.disk_bytes + GIB
    const network = { ...before.network, public_ip: null, ports: [] }
    const spec = await subject.restart(before, { memory_bytes, disk_bytes, network })
    subject.machine = spec
    assert.equal((await get(spec))?.ready, false, 'a new run is not ready yet')
    const second = await subject.untilReady(spec)
    assert.deepEqual([second.run, second.memory_bytes, second.disk_bytes], [spec.run, memory_bytes, disk_bytes])
    assert.deepEqual([second.public_ip, second.ports], [null, []])
  })
}

function testWhileRunning(subject: Subject): void {
  const { ref, get } = subject

  test('consoleLog returns the end of the console', async () => {
    const consoleLog = (bytes: number) => subject.driver.consoleLog(ref(subject.machine), bytes)
    for (let step = 0; (await consoleLog(65536)).length === 0; step++) {
      assert.ok(step < MAX_STEPS, 'the guest writes to its console')
      await subject.harness.advance(STEP_MS)
    }
    assert.ok((await consoleLog(4)).length <= 4)
  })

  test('setPublicAddress adds and removes the public IP address without a reboot', async () => {
    const { driver, harness, machine: spec } = subject
    const running = await get(spec)
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
      assert.deepEqual(machine?.started_at, running?.started_at)
    }
    for (let times = 0; times < 2; times++) {
      await driver.setPublicAddress(spec, harness.now())
      const machine = await get(spec)
      assert.deepEqual([machine?.public_ip, machine?.ports, machine?.power], [null, [], 'running'])
    }
  })
}

function testRebuildAndCrash(subject: Subject): void {
  const { ref, get } = subject

  test('kill stops the machine, and its disk can grow', async () => {
    const { driver } = subject
    await driver.kill(ref(subject.machine))
    assert.equal((await get(subject.machine))?.power, 'stopped')
    await driver.kill(ref(subject.machine))
    const spec = { ...subject.machine, disk_bytes: subject.machine.disk_bytes + GIB }
    await driver.resizeDisk(spec, subject.now())
    await driver.resizeDisk(spec, subject.now())
    assert.equal((await get(spec))?.disk_bytes, spec.disk_bytes)
    subject.machine = spec
  })

  test('create with a new disk number rebuilds the machine', async () => {
    const spec = { ...subject.machine, disk: subject.machine.disk + 1, run: subject.machine.run + 1 }
    await subject.driver.create(spec, subject.now())
    assert.equal((await get(spec))?.disk, spec.disk)
    await subject.driver.start(spec, subject.now())
    assert.equal((await subject.untilReady(spec)).run, spec.run)
    subject.machine = spec
  })

  test('a machine whose process is killed has crashed and starts again', async (context) => {
    const { driver, harness, machine: spec } = subject
    if (!harness.crash) return context.skip('the harness cannot crash a machine')
    await harness.crash(spec.id)
    assert.equal((await subject.untilPower(spec, 'crashed')).run, spec.run)
    await driver.powerDown(ref(spec))
    subject.machine = await subject.restart(spec)
    assert.equal((await subject.untilReady(subject.machine)).power, 'running')
  })
}

function testFailure(subject: Subject, failure: Failure, skipped: string | undefined): void {
  const title = `a machine with the failure ${failure} reports it, is killed and starts again`
  test(skipped ? `${title} (skipped: ${skipped})` : title, { skip: skipped !== undefined }, async () => {
    const { driver, harness, ref, get } = subject
    const failing = subject.failing.get(failure)
    assert.ok(failing, 'the harness causes each failure or gives a reason why it cannot')
    const { spec } = failing
    await failing.ready
    const isDown = (machine: ObservedMachine | null) => machine?.trouble === failure && machine.down_since != null
    const failed = await subject.until(spec, failure, isDown)
    assert.deepEqual([failed.power, failed.run], [FAILURES[failure], spec.run])
    assert.ok(failed.down_since && failed.down_since <= harness.now(), 'the time of the failure is known')
    assert.ok(subject.announced.includes(spec.id), 'the change was announced')
    await driver.resume(ref(spec))
    if (failure === 'disk_error') {
      const resumed = await get(spec)
      assert.deepEqual([resumed?.power, resumed?.trouble, resumed?.run], ['running', null, spec.run])
    } else assert.equal((await get(spec))?.trouble, failure, 'only a disk error can be resumed')
    await driver.kill(ref(spec))
    const ended = await get(spec)
    assert.deepEqual([ended?.power, ended?.trouble], ['stopped', null])
    const again = await subject.restart(spec)
    assert.equal((await subject.untilReady(again)).trouble, null)
    await subject.remove(again)
  })
}

function testHostReboot(subject: Subject): void {
  const { ref, get } = subject

  test('a host reboot ends running machines and does not change stopped ones', async () => {
    const running = subject.machine
    const before = await get(running)
    assert.deepEqual([before?.power, typeof before?.host_boot], ['running', 'string'])
    const stopped = await subject.makeRunning()
    await subject.driver.kill(ref(stopped))
    await subject.harness.rebootHost()
    const lost = await subject.untilPower(running, 'crashed')
    assert.deepEqual([lost.trouble, lost.run, lost.disk], ['host_reboot', running.run, running.disk])
    const left = await get(stopped)
    assert.deepEqual([left?.power, left?.trouble], ['stopped', null])
    subject.machine = await subject.restart(running)
    const other = await subject.restart(stopped)
    assert.equal((await subject.untilReady(subject.machine)).trouble, null)
    await subject.untilReady(other)
    await subject.remove(other)
  })
}

function testReopen(subject: Subject): void {
  const { ref, get } = subject

  test('machines outlive the driver', async (context) => {
    if (!subject.harness.reopen) return context.skip('the harness cannot reopen the driver')
    const [running, stopped] = [subject.machine, subject.harness.spec()]
    await subject.driver.create(stopped, subject.now())
    const before = await get(running)
    await subject.driver.close()
    subject.driver = await subject.harness.reopen()
    assert.deepEqual(await get(running), before)
    assert.equal((await get(stopped))?.power, 'stopped')
    const ids = (await subject.driver.list()).map(({ id }) => id)
    assert.ok(ids.includes(running.id) && ids.includes(stopped.id))
    await subject.driver.powerDown(ref(running))
    await subject.untilPower(running, 'off')
    await subject.remove(running)
    await subject.remove(stopped)
  })
}
