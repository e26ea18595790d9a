/** Tests that need real guests: network, confinement and recovery after the control plane stopped. */
import assert from 'node:assert/strict'
import { open, readFile, rename, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { systemClock } from '../../lib/clock.ts'
import { AddressInUseError, DamagedDiskError, type MachineSpec, NotFoundError, TransientError } from '../driver.ts'
import { growCommand } from './disk.ts'
import type { QemuDriver } from './driver.ts'
import { findMachine } from './machine.ts'
import { instancesFolder, machinePaths, readRun, writeJson } from './machine-files.ts'
import { findMachineProcesses, killProcess } from './process.ts'
import { QmpClient } from './qmp.ts'
import { runProgram } from './run-program.ts'
import { endAllMachines } from './teardown.ts'
import { makeWorld, sshKey, until, type World } from './testing.ts'

const MIB = 1024 * 1024
const isRoot = process.getuid?.() === 0
const ref = ({ id, environment_id }: MachineSpec) => ({ id, environment_id, now: systemClock.now() })
const isReady = (machine: { ready: boolean }) => machine.ready

async function boot(driver: QemuDriver, spec: MachineSpec): Promise<void> {
  await driver.create(spec)
  await driver.start(spec, systemClock.now())
}

describe('real machines', () => {
  let world: World
  let driver: QemuDriver
  let ssh: Awaited<ReturnType<typeof sshKey>>
  let [one, two, other]: MachineSpec[] = []

  before(async () => {
    world = await makeWorld()
    driver = world.driver
    ssh = await sshKey(dirname(world.options.data_dir))
    const reachable = (segment: number): MachineSpec => {
      const spec = world.spec({ ssh_public_keys: [ssh.public_key] })
      return { ...spec, network: { ...spec.network, segment, public_ip: world.publicAddress(), ports: [22] } }
    }
    one = { ...reachable(1), user_data: Buffer.from('#!/bin/sh\necho done >/root/user-data-ran\n') }
    two = reachable(1)
    other = reachable(2)
    await Promise.all([one, two, other].map((spec) => boot(driver, spec)))
    await Promise.all([one, two, other].map((spec) => until(driver, spec, isReady)))
  })
  after(() => world?.remove())

  const run = async (spec: MachineSpec, command: string) => ssh.run((await driver.get(ref(spec)))!, command)
  const processesOf = async (spec: MachineSpec) => {
    const { directory } = machinePaths(world.options, spec.id)
    return (await findMachineProcesses(instancesFolder(world.options))).filter(({ folder }) => folder === directory)
  }

  test('a guest has the requested hostname, size and user data', async () => {
    const facts = await run(
      one!,
      'hostname; blockdev --getsize64 /dev/vda; grep MemTotal /proc/meminfo; cat /root/user-data-ran',
    )
    const [hostname, bytes, memory, ran] = facts.split('\n')
    assert.equal(hostname, one!.hostname)
    assert.equal(Number(bytes), one!.disk_bytes)
    assert.ok(Number(memory!.split(/\s+/)[1]) * 1024 > one!.memory_bytes / 2)
    assert.equal(ran, 'done')
  })

  test('guests reach each other within a segment only', async () => {
    const ping = (to: MachineSpec) =>
      `ping -c 1 -W 5 ${to.network.private_ip} >/dev/null && echo reached || echo unreachable`
    assert.equal(await run(one!, ping(two!)), 'reached\n')
    assert.equal(await run(two!, ping(one!)), 'reached\n')
    assert.equal(await run(one!, ping(other!).replace('-W 5', '-W 1')), 'unreachable\n')
  })

  test('the public IP address changes while the guest runs', async () => {
    const before = (await driver.get(ref(two!)))!
    const network = { ...two!.network, public_ip: world.publicAddress() }
    two = { ...two!, network }
    await driver.setPublicAddress(two)
    assert.equal((await run(two, 'hostname')).trim(), two.hostname)
    await assert.rejects(ssh.run(before, 'hostname'))
    const taken = { ...network, public_ip: world.publicAddress(), ports: [22, 9000] }
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(9000, taken.public_ip, resolve))
    await assert.rejects(driver.setPublicAddress({ ...two, network: taken }), AddressInUseError)
    assert.equal((await driver.get(ref(two)))?.public_ip, null, 'all ports or none are forwarded')
    await new Promise((resolve) => server.close(resolve))
    await driver.setPublicAddress({ ...two, network: taken })
    assert.equal((await run(two, 'hostname')).trim(), two.hostname)
  })

  test('does not start a machine whose port is in use', async () => {
    const spec = world.spec()
    const network = { ...spec.network, public_ip: world.publicAddress(), ports: [9000] }
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(9000, network.public_ip, resolve))
    await driver.create(spec)
    await assert.rejects(driver.start({ ...spec, network }, systemClock.now()), AddressInUseError)
    await new Promise((resolve) => server.close(resolve))
    assert.equal((await driver.get(ref(spec)))?.run, 0)
    assert.deepEqual(await processesOf(spec), [])
    await driver.delete(ref(spec))
  })

  test('QEMU has one capability, and its user can only access its own machine', async (context) => {
    if (!isRoot) return context.skip('separate users need root')
    const [mine, theirs] = await Promise.all([findMachine(world.options, one!.id), findMachine(world.options, two!.id)])
    const status = await readFile(`/proc/${mine!.process!.pid}/status`, 'utf8')
    const field = (name: string) => new RegExp(`^${name}:[ \t]*(.*)$`, 'm').exec(status)?.[1]
    const uid = world.options.service_uid! + mine!.machine!.uid_number
    assert.equal(field('Uid'), [uid, uid, uid, uid].join('\t'))
    const image = join(world.options.images_dir, one!.image.folder)
    const { gid, mode } = await stat(image)
    assert.equal(field('Groups')?.trim(), `${gid}`, 'the group of the image')
    assert.equal(mode & 0o777, 0o750)
    assert.equal(field('CapEff'), '0000000000000400', 'only CAP_NET_BIND_SERVICE')
    assert.equal(field('CapBnd'), '0000000000000400')
    assert.equal(field('NoNewPrivs'), '1')
    assert.equal(field('Seccomp'), '2')
    assert.notEqual(mine!.machine!.uid_number, theirs!.machine!.uid_number)
    const can = (...test: string[]) =>
      runProgram(['setpriv', '--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups', '--', 'test', ...test]).then(
        () => true,
        () => false,
      )
    assert.ok(await can('-w', mine!.paths.disk))
    for (const path of [
      theirs!.paths.disk,
      theirs!.paths.console,
      theirs!.paths.control,
      mine!.paths.run_file,
      join(image, 'disk.qcow2'),
    ])
      assert.ok(!(await can('-r', path)), path)
    assert.ok(!(await can('-w', mine!.paths.directory)), 'it cannot create files in the folder')
    assert.ok(!(await can('-w', join(world.options.images_dir, one!.image.folder, 'disk.qcow2'))))
    assert.equal((await stat(mine!.paths.sockets)).mode & 0o777, 0o700)
  })

  test('the process of a machine is in its own cgroup where the host has any, and in none otherwise', async () => {
    const { scope, installation_id } = world.options
    const { process } = (await findMachine(world.options, one!.id))!
    const lines = (await readFile(`/proc/${process!.pid}/cgroup`, 'utf8')).split('\n')
    const own = lines.filter((line) => line.includes(`cloudnexus-${installation_id}`) && line.includes(one!.id))
    const isSeparate = scope.command(one!.id, 1, one!).length > 0
    assert.equal(own.length > 0, isSeparate, `${scope.reason}: ${lines.join()}`)
    if (scope.limits === 'cgroup') assert.ok(isSeparate)
  })

  test('the lock of QEMU prevents a second writer on the disk', async () => {
    await assert.rejects(runProgram(growCommand(machinePaths(world.options, one!.id).disk, 2 ** 31)), /lock/)
    await assert.rejects(driver.resizeDisk({ ...one!, disk_bytes: 2 ** 31 }), TransientError)
    await assert.rejects(driver.create({ ...one!, disk: 2 }), TransientError)
  })

  test('finds the process after a kill between the start and its record, and starts no other', async () => {
    const { paths, process: recorded, run: file } = (await findMachine(world.options, one!.id))!
    await driver.close()
    const { process: _forgotten, ...start } = file!
    await writeJson(paths.start_file, start)
    await rm(paths.run_file)
    driver = await world.reopen()
    assert.equal((await driver.get(ref(one!)))?.power, 'running')
    assert.deepEqual((await readRun(paths))?.process, recorded)
    await driver.start(one!, systemClock.now())
    assert.deepEqual(
      (await processesOf(one!)).map((each) => each.process),
      [recorded],
    )
    await assert.rejects(driver.start({ ...one!, run: 2 }, systemClock.now()), TransientError)
    // Without a PID file, the command line identifies the process.
    await writeJson(paths.start_file, start)
    await rm(paths.run_file)
    await rm(paths.pid_file)
    await assert.rejects(driver.start({ ...one!, run: 2 }, systemClock.now()), TransientError)
    assert.deepEqual((await readRun(paths))?.process, recorded)
  })

  test('a guest that powered off without a control plane is off, not crashed', async () => {
    await driver.close()
    const { paths, process: running } = (await findMachine(world.options, other!.id))!
    const client = await QmpClient.connect(paths.control, 5000, systemClock)
    const stopped = Promise.withResolvers<void>()
    client.onEvent = ({ event }) => event === 'STOP' && stopped.resolve()
    await client.execute('system_powerdown', {}, 5000)
    await stopped.promise
    client.close()
    assert.ok(running)
    driver = await world.reopen()
    assert.equal((await driver.get(ref(other!)))?.power, 'off')
    assert.equal((await driver.get(ref(other!)))?.power, 'off')
    assert.deepEqual(await processesOf(other!), [])
  })

  test('a panic pauses the machine and is reported', async () => {
    const announced: string[] = []
    driver.watch((id) => announced.push(id))
    await run(two!, '(sleep 0.2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &')
    const machine = await until(driver, two!, ({ power }) => power !== 'running')
    assert.deepEqual([machine.power, machine.trouble], ['paused', 'panic'])
    assert.ok(announced.includes(two!.id))
    await driver.kill(ref(two!))
    assert.equal((await driver.get(ref(two!)))?.power, 'stopped')
  })

  test('a process without files is listed and can be deleted', async () => {
    await rename(machinePaths(world.options, one!.id).directory, join(world.options.data_dir, 'gone'))
    assert.ok((await driver.list()).some(({ id }) => id === one!.id))
    assert.equal((await driver.get(ref(one!)))?.power, 'running')
    await driver.delete(ref(one!))
    assert.equal(await driver.get(ref(one!)), null)
    assert.deepEqual(await processesOf(one!), [])
  })

  test('a machine with damaged files is reported, and removed only by delete', async () => {
    const { paths } = (await findMachine(world.options, two!.id))!
    await rm(paths.machine_file)
    await writeJson(paths.machine_file, [])
    await driver.close()
    driver = await world.reopen()
    await assert.rejects(driver.get(ref(two!)), TransientError)
    assert.ok((await driver.list()).some(({ id }) => id === two!.id))
    await driver.delete(ref(two!))
    assert.equal(await driver.get(ref(two!)), null)
  })

  test('throws NotFoundError for a missing image', async () => {
    const spec = world.spec()
    await assert.rejects(driver.create({ ...spec, image: { ...spec.image, folder: 'nothing' } }), NotFoundError)
    assert.equal(await driver.get(ref(spec)), null)
  })

  test('ends all machines without a driver', async () => {
    await driver.start({ ...other!, run: 2 }, systemClock.now())
    await driver.close()
    assert.deepEqual(await endAllMachines(world.options.data_dir, world.options.run_dir), [other!.id])
    assert.deepEqual(await findMachineProcesses(instancesFolder(world.options)), [])
    assert.deepEqual(await endAllMachines(world.options.data_dir, world.options.run_dir), [])
  })
})

test('runs machines in a data folder that other users cannot access', async (context) => {
  if (!isRoot) return context.skip('separate users need root')
  const world = await makeWorld({ closed: true })
  try {
    const spec = world.spec({ disk_bytes: 1024 * MIB })
    await world.driver.create(spec)
    await world.driver.start({ ...spec, disk_bytes: 2048 * MIB }, systemClock.now())
    const machine = await until(world.driver, spec, isReady)
    assert.equal(machine.disk_bytes, 2048 * MIB)
    const found = await findMachine(world.options, spec.id)
    const mounts = await readFile(`/proc/${found!.process!.pid}/mounts`, 'utf8')
    assert.ok(mounts.includes(`${found!.paths.sockets}/instance`))
    assert.ok(
      !(await readFile('/proc/self/mounts', 'utf8')).includes(found!.paths.sockets),
      'only the machine sees the mount',
    )
    await world.driver.powerDown(ref(spec))
    await until(world.driver, spec, ({ power }) => power === 'off')
    await world.driver.delete(ref(spec))
    assert.equal(await world.driver.get(ref(spec)), null)
  } finally {
    await world.remove()
  }
})

test('does not start a damaged disk after a host reboot, and starts an intact one', async () => {
  const world = await makeWorld()
  try {
    const spec = world.spec()
    await boot(world.driver, spec)
    const { paths, process: running, run } = (await findMachine(world.options, spec.id))!
    await killProcess(running!, 5000, systemClock)
    await writeJson(paths.run_file, { ...run, process: { ...running, boot_id: 'previous boot' } })
    const disk = await open(paths.disk, 'r+')
    const { buffer } = await disk.read(Buffer.alloc(8), 0, 8, 40)
    const l1_table = Number(buffer.readBigUInt64BE())
    const intact = (await disk.read(Buffer.alloc(8), 0, 8, l1_table)).buffer
    await disk.write(Buffer.from('80000000ffff0000', 'hex'), 0, 8, l1_table)
    const again = { ...spec, run: 2 }
    await assert.rejects(world.driver.start(again, systemClock.now()), DamagedDiskError)
    assert.equal((await world.driver.get(ref(spec)))?.run, 1)
    await disk.write(intact, 0, 8, l1_table)
    await disk.close()
    await world.driver.start(again, systemClock.now())
    assert.equal((await world.driver.get(ref(spec)))?.run, 2)
  } finally {
    await world.remove()
  }
})

test('a machine with the ready signal `process` is ready when its process runs', async () => {
  const world = await makeWorld()
  try {
    const spec = world.spec()
    const image = { ...spec.image, boot: null, seed: 'nocloud', ready_signal: 'process' } as const
    await boot(world.driver, { ...spec, image })
    const machine = await until(world.driver, spec, isReady)
    assert.equal(machine.power, 'running')
    // A reply of QEMU proves that it accepted the command line.
    const { paths } = (await findMachine(world.options, spec.id))!
    for (let attempt = 0; ; attempt++) {
      const client = await QmpClient.connect(paths.control, 5000, systemClock).catch(() => null)
      const status = await client?.execute('query-status', {}, 5000)
      client?.close()
      if ((status as { status?: string })?.status === 'running') break
      assert.ok(attempt < 500)
      await systemClock.sleep(10)
    }
  } finally {
    await world.remove()
  }
})

test('a QEMU process that exits immediately has crashed', async () => {
  const world = await makeWorld({ qemu_binary: '/bin/false' })
  try {
    const spec = world.spec()
    await world.driver.create(spec)
    await world.driver.start(spec, systemClock.now()).catch((error) => assert.ok(error instanceof TransientError))
    const machine = await until(world.driver, spec, ({ power }) => power !== 'running')
    assert.ok(machine.power === 'crashed' || machine.run === 0)
    await world.driver.delete(ref(spec))
  } finally {
    await world.remove()
  }
})
