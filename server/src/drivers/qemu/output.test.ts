/** What a guest and QEMU write is bounded, whether or not the control plane runs. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { systemClock as clock } from '../../lib/clock.ts'
import { identify } from '../../lib/processes.ts'
import type { MachineSpec } from '../driver.ts'
import { readTail } from './console-log.ts'
import { spawnDetached } from './launch.ts'
import { machinePaths } from './machine-files.ts'
import { Messages } from './messages.ts'
import { killProcess } from './process.ts'
import { runProgram } from './run-program.ts'
import { makeWorld, sshKey, until, type World } from './testing.ts'

const MIB = 2 ** 20
const GROWTH_BYTES = 64 * MIB
const ref = ({ id, environment_id }: MachineSpec) => ({ id, environment_id, now: clock.now() })

/** Writes a file to a device again and again, and counts that in a file. */
const flood = (file: string, device: string) =>
  `(n=0; while :; do dd if=${file} of=${device} bs=64k 2>/dev/null && n=$((n+1)) && echo $n >/tmp/n.$(basename ${device}); done) >/dev/null 2>&1 </dev/null &`

describe('a guest that floods every port it has', () => {
  let world: World
  let spec: MachineSpec
  let ssh: Awaited<ReturnType<typeof sshKey>>
  let port: string
  before(async () => {
    world = await makeWorld()
    ssh = await sshKey(dirname(world.options.data_dir))
    const base = world.spec({ ssh_public_keys: [ssh.public_key] })
    spec = { ...base, network: { ...base.network, public_ip: world.publicAddress(), ports: [22] } }
    await world.driver.create(spec)
    await world.driver.start(spec, clock.now())
    await until(world.driver, spec, (machine) => machine.ready)
    port = (await inGuest('cat /run/ready-port')).trim()
    await inGuest('for size in 4096 1048576; do yes flood | head -c $size >/tmp/$size; done')
  })
  after(() => world?.remove())

  const inGuest = async (command: string) => ssh.run((await world.driver.get(ref(spec)))!, command)
  const usedBytes = async () => Number((await runProgram(['du', '-s', '-B1', world.options.data_dir])).split('\t')[0])
  const written = async (device: string) =>
    Number(await inGuest(`cat /tmp/n.$(basename ${device}) 2>/dev/null || echo 0`))
  /** Waits until the guest has written its file this many times more. */
  async function flooded(device: string, more: number): Promise<void> {
    const begin = await written(device)
    for (let tries = 0; (await written(device)) < begin + more; tries++) {
      assert.ok(tries < 600, `${device}: ${await written(device)} of ${begin + more}`)
      await clock.sleep(100)
    }
  }

  test('fills at most 64 MiB while the control plane runs, and its console ends with what it wrote last', async () => {
    const before = await usedBytes()
    await inGuest(`${flood('/tmp/1048576', port)} ${flood('/tmp/4096', '/dev/console')}`)
    await flooded(port, 100)
    await flooded('/dev/console', 5)
    assert.match(Buffer.from(await world.driver.consoleLog(ref(spec), 100)).toString(), /flood\r?\n/)
    assert.ok((await usedBytes()) < before + GROWTH_BYTES)
    assert.equal((await world.driver.get(ref(spec)))?.ready, true)
  })

  test('fills no more while the control plane is stopped', async () => {
    const machine = (await world.driver.get(ref(spec)))!
    await world.driver.close()
    const before = await usedBytes()
    const count = async () => Number(await ssh.run(machine, `cat /tmp/n.$(basename ${port})`))
    const begin = await count()
    while ((await count()) < begin + 100) await clock.sleep(100)
    assert.ok((await usedBytes()) < before + GROWTH_BYTES)
    const next = await world.reopen()
    const seen = await until(next, spec, (each) => each.ready)
    assert.deepEqual([seen.power, seen.trouble], ['running', null])
  })
})

test('what QEMU writes without end stays within the buffer and the log, and the reader gets the beginning', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'messages-'))
  const paths = machinePaths({ data_dir: folder, run_dir: folder }, 'inst_0123456789')
  await mkdir(paths.directory, { recursive: true })
  await mkdir(paths.sockets, { recursive: true })
  try {
    assert.equal(await Messages.open(paths), null, 'a machine of an older release has none')
    const messages = await Messages.create(paths)
    const loop = 'echo first; i=0; while :; do echo message; i=$((i+1)); [ $i != 20000 ] || echo done >"$1"; done'
    const mark = join(folder, 'mark')
    const child = await spawnDetached(['sh', '-c', loop, 'sh', mark], messages.fd)
    await messages.close()
    for (let tries = 0; !(await stat(mark).catch(() => null)); tries++) {
      assert.ok(tries < 3000)
      await clock.sleep(10)
    }
    const reader = (await Messages.open(paths))!
    await reader.collect()
    assert.match(await readFile(paths.log, 'utf8'), /^first\nmessage\n/)
    for (let i = 0; i < 100; i++) await reader.collect()
    assert.ok((await stat(paths.log)).size <= MIB)
    assert.match((await readTail(paths.log, 100)).toString(), /message\n/)
    await killProcess(identify(child.pid)!, 5000, clock)
    await reader.collect()
    await reader.collect()
    await reader.close()
  } finally {
    await rm(folder, { recursive: true })
  }
})
