/** Shared by the tests with real guests: an image, and a world of separate folders and IP addresses with its removal. */
import { createHash, randomBytes, randomInt } from 'node:crypto'
import { chmod, cp, mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { newId } from '../../lib/id.ts'
import { silentLog } from '../../lib/log.ts'
import { systemRandom } from '../../lib/random.ts'
import type { Driver, MachineImage, MachineSpec, ObservedMachine } from '../driver.ts'
import { QemuDriver } from './driver.ts'
import { openEgress, removeEgress } from './egress.ts'
import { removeGuestNetwork } from './guest-network.ts'
import type { QemuOptions } from './host.ts'
import { runProgram } from './run-program.ts'
import { openScope, removeScope } from './scope.ts'
import { endAllMachines } from './teardown.ts'
import { MACHINE_USERS } from './users.ts'

const REPOSITORY = join(import.meta.dirname, '../../../..')
const MIB = 1024 * 1024
const IMAGE = 'micro-linux'

/** Builds the image unless it exists; the kernel releases the lock of a process that ends. */
const BUILD = '[ -e "$1/manifest.json" ] || { rm -rf "$1.new" && bash "$2" "$1.new" >&2 && mv "$1.new" "$1"; }'

/** The images folder of the tests and the micro-linux image in it, built at first use and after each change of its recipe. */
export async function testImage(): Promise<{ images_dir: string; image: MachineImage }> {
  const images_dir = process.env.TEST_IMAGES_DIR ?? (await defaultFolder())
  const folder = join(images_dir, IMAGE)
  const recipe = join(REPOSITORY, 'images', IMAGE, 'build.sh')
  await runProgram(['flock', `${folder}.lock`, 'sh', '-c', BUILD, 'sh', folder, recipe], 600_000)
  const { boot, seed, ready_signal } = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'))
  return { images_dir, image: { id: 'img_0000000000', folder: IMAGE, boot, seed, ready_signal } }
}

async function defaultFolder(): Promise<string> {
  const sources = ['lib.sh', 'initrd', IMAGE].map((name) => join(REPOSITORY, 'images', name))
  const listing = ['find', ...sources, '-type', 'f', '-exec', 'sha256sum', '{}', '+']
  const lines = (await runProgram(listing)).split('\n').sort().join('\n')
  const version = createHash('sha256').update(lines).digest('hex').slice(0, 12)
  const folder = join(
    process.env.TEST_CACHE_DIR ?? tmpdir(),
    `cloudnexus-test-images-${process.getuid?.() ?? 0}`,
    version,
  )
  await mkdir(folder, { recursive: true, mode: 0o755 })
  if ((await stat(dirname(folder))).uid !== process.getuid?.())
    throw new Error(`${dirname(folder)} belongs to another user`)
  return folder
}

export type World = {
  options: QemuOptions
  driver: QemuDriver
  spec(changes?: Partial<MachineSpec>): MachineSpec
  publicAddress(): string
  /** Another adopted driver for the same folders. */
  reopen(): Promise<QemuDriver>
  remove(): Promise<void>
}

/** First user ID of machines, above all accounts of a typical host and below those of installations. */
const TEST_UID = 1_700_000_000
const isRoot = process.getuid?.() === 0

type Changes = Partial<QemuOptions> & { closed?: boolean; refused_ports?: number[]; guest_allow?: string[] }

/**
 * An empty world with an adopted driver, with user IDs and, as root, an egress filter of its own. `closed`: other users
 * have no access to its data folder.
 */
export async function makeWorld(changes: Changes = {}): Promise<World> {
  const { closed = false, refused_ports = [], guest_allow = [], ...given } = changes
  const source = await testImage()
  const { image } = source
  const root = await mkdtemp(join(tmpdir(), 'cn-'))
  const data_dir = join(root, 'data')
  const run_dir = join(root, 'run')
  await chmod(root, 0o711)
  // A copy, because the driver restricts who can read an image.
  const images_dir = join(root, 'images')
  await cp(source.images_dir, images_dir, { recursive: true })
  await mkdir(data_dir, { mode: closed ? 0o700 : 0o711 })
  const [block, third] = [randomInt(64, 128), randomInt(256)]
  const network = {
    installation_id: `test-${randomBytes(4).toString('hex')}`,
    service_uid: isRoot ? TEST_UID + randomInt(3000) * MACHINE_USERS : null,
    multicast_group: `230.${block}.${third}.1`,
    multicast_port_base: 20000,
  }
  const folders = { data_dir, run_dir }
  const filter = { ...network, ...folders, refused_ports, allow: guest_allow, public_addresses: [] }
  const options: QemuOptions = {
    ...network,
    ...folders,
    images_dir,
    qemu_binary: 'qemu-system-x86_64',
    accelerator: { name: 'QEMU', accelerator: 'tcg', reason: 'test' },
    egress: given.egress ?? (await openEgress(filter)),
    scope: given.scope ?? (await openScope(network.installation_id)),
    limits: { vcpus: 16, memory_bytes: 8192 * MIB, disk_bytes: 1024 ** 4 },
    log: silentLog,
    clock: systemClock,
    ...given,
  }
  let made = 0
  const spec = (more: Partial<MachineSpec> = {}): MachineSpec => {
    const number = ++made
    const address = `10.77.0.${number + 1}`
    return {
      id: newId('inst', systemRandom),
      environment_id: 'env_0000000000',
      disk: 1,
      run: 1,
      image,
      vcpus: 1,
      memory_bytes: 128 * MIB,
      disk_bytes: 1024 * MIB,
      hostname: `guest-${number}`,
      ssh_public_keys: [],
      user_data: null,
      tags: {},
      network: {
        segment: 1,
        mac: `52:54:00:77:00:${(number + 1).toString(16).padStart(2, '0')}`,
        private_ip: address,
        prefix_length: 24,
        public_ip: null,
        ports: [],
      },
      ...more,
    }
  }
  let addresses = 0
  const drivers: QemuDriver[] = []
  const reopen = async () => {
    const driver = new QemuDriver(options)
    drivers.push(driver)
    await driver.adopt()
    return driver
  }
  const remove = async () => {
    for (const driver of drivers) await driver.close()
    await endAllMachines(data_dir, run_dir)
    await (isRoot ? removeEgress(options.installation_id) : removeGuestNetwork(options))
    await removeScope(options.installation_id)
    await rm(root, { recursive: true, force: true })
  }
  const publicAddress = () => `127.${block}.${third}.${++addresses}`
  return { options, driver: await reopen(), spec, publicAddress, reopen, remove }
}

/** Waits until the machine is in the expected state; fails after two minutes. */
export async function until(
  driver: Driver,
  spec: MachineSpec,
  holds: (machine: ObservedMachine) => boolean,
): Promise<ObservedMachine> {
  const ref = { id: spec.id, environment_id: spec.environment_id, now: systemClock.now() }
  for (let attempt = 0; ; attempt++) {
    const machine = await driver.get(ref)
    if (machine && holds(machine)) return machine
    if (attempt > 1200) throw new Error(`still ${JSON.stringify(machine)}`)
    await systemClock.sleep(100)
  }
}

/** A new key pair, and a function that runs commands in a guest with it. */
export async function sshKey(folder: string) {
  const key = join(folder, 'id_ed25519')
  await runProgram(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', key])
  const options = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'LogLevel=ERROR', 'BatchMode=yes']
  const run = ({ public_ip, ports }: ObservedMachine, command: string) => {
    const port = ports.find((each) => each.guest_port === 22)?.host_port
    const settings = options.flatMap((option) => ['-o', option])
    return runProgram(['ssh', '-F', 'none', '-i', key, ...settings, '-p', `${port}`, `root@${public_ip}`, command])
  }
  return { public_key: (await readFile(`${key}.pub`, 'utf8')).trim(), run }
}
