import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { InvalidSpecError, type MachineSpec } from '../driver.ts'
import { qemuCommand, uuidOf } from './command.ts'
import { machinePaths } from './machine-files.ts'
import { userNetwork } from './network/user.ts'
import { folderOf } from './process.ts'

const roots = { data_dir: '/srv/cloud', run_dir: '/run/cloudnexus-test' }
const network = userNetwork({ multicast_group: '230.64.12.1', multicast_port_base: 20000 }, null)

const spec: MachineSpec = {
  id: 'inst_0123456789',
  environment_id: 'env_0000000000',
  disk: 1,
  run: 1,
  vcpus: 1,
  memory_bytes: 2 ** 27,
  disk_bytes: 2 ** 30,
  image: {
    id: 'img_0000000000',
    folder: 'micro-linux',
    seed: 'fw_cfg',
    ready_signal: 'guest',
    boot: { kernel: 'kernel', initrd: 'initrd', append: 'console=ttyS0 quiet' },
  },
  hostname: '',
  ssh_public_keys: [],
  user_data: null,
  tags: {},
  network: {
    segment: 7,
    mac: '52:54:00:00:00:01',
    private_ip: '10.0.0.5',
    prefix_length: 24,
    public_ip: '127.64.0.1',
    ports: [22],
  },
}

function command(changed: MachineSpec, data_dir = roots.data_dir): string[] {
  const paths = machinePaths({ ...roots, data_dir }, changed.id)
  const ports = changed.network.ports.map((port) => ({ guest_port: port, host_port: port }))
  return qemuCommand(changed, paths, network.devices(changed, ports), {
    qemu_binary: 'qemu-system-x86_64',
    accelerator: 'tcg',
    identity_folder: paths.directory,
    image_folder: '/srv/cloud/images/micro-linux',
  })
}

const hostileText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc
    .array(
      fc.constantFrom(
        ',',
        ',,',
        '=',
        '"',
        '\n',
        '\0',
        'json:{"driver":"file"}',
        'nbd://',
        '-',
        '../',
        '😀',
        'file=/etc/shadow',
        'a',
      ),
      { maxLength: 40 },
    )
    .map((parts) => parts.join('')),
)

test('strings of a tenant do not change the command line', () => {
  const bare = command(spec)
  const strings = fc.record({
    hostname: hostileText,
    ssh_public_keys: fc.array(hostileText, { maxLength: 3 }),
    user_data: fc.option(fc.uint8Array({ maxLength: 100 })),
    environment_id: hostileText,
    tags: fc.dictionary(hostileText, hostileText, { maxKeys: 3 }),
  })
  fc.assert(
    fc.property(strings, (values) => {
      assert.deepEqual(command({ ...spec, ...values }), bare)
    }),
    { numRuns: 10_000 },
  )
})

test('rejects malformed values', () => {
  const isAccepted = (changed: MachineSpec) => {
    try {
      command(changed)
      return true
    } catch (error) {
      assert.ok(error instanceof InvalidSpecError)
      return false
    }
  }
  assert.ok(isAccepted(spec))
  const inNetwork = (change: object) => isAccepted({ ...spec, network: { ...spec.network, ...change } })
  const inImage = (change: object) => isAccepted({ ...spec, image: { ...spec.image, ...change } })
  const boot = (change: object) => inImage({ boot: { ...spec.image.boot, ...change } })
  fc.assert(
    fc.property(hostileText, (text) => {
      fc.pre(!/^[A-Za-z0-9._-]*$/.test(text))
      assert.ok(!isAccepted({ ...spec, id: text }))
      assert.ok(!isAccepted({ ...spec, id: `${spec.id}${text}` }))
      assert.ok(!inNetwork({ mac: text }) && !inNetwork({ mac: `${spec.network.mac}${text}` }))
      for (const field of ['private_ip', 'public_ip'])
        assert.ok(!inNetwork({ [field]: text }) && !inNetwork({ [field]: `10.0.0.1${text}` }))
      assert.ok(!boot({ kernel: text }) && !boot({ initrd: text }))
      assert.ok(text.includes('/') || !inImage({ folder: text }))
    }),
    { numRuns: 2000 },
  )
  for (const folder of ['', '/etc', '../x', 'a/../../b', 'a//b', '.hidden', 'a/./b']) assert.ok(!inImage({ folder }))
  for (const append of ['a\nb', 'a\0b', 'é']) assert.ok(!boot({ append }))
  for (const mac of ['01:00:5e:00:00:01', 'ff:ff:ff:ff:ff:ff', '52:54:00:00:00']) assert.ok(!inNetwork({ mac }))
  for (const ip of ['256.1.1.1', '1.2.3', '1.2.3.4.', '01.2.3.4', '::1']) assert.ok(!inNetwork({ public_ip: ip }))
  for (const port of [0, 65536, 1.5, Number.NaN, -1]) assert.ok(!inNetwork({ ports: [port] }))
  for (const segment of [-1, 45536, 0.5, Number.NaN]) assert.ok(!inNetwork({ segment }))
  for (const vcpus of [0, 1.5, 256, Number.NaN]) assert.ok(!isAccepted({ ...spec, vcpus }))
  for (const memory_bytes of [0, -1, 2 ** 20 + 1, Number.NaN]) assert.ok(!isAccepted({ ...spec, memory_bytes }))
})

test('names the format of every disk and the complete backing chain', () => {
  const argv = command({ ...spec, image: { ...spec.image, boot: null, seed: 'nocloud' } })
  const blockdevs = argv.flatMap((word, index) => (argv[index - 1] === '-blockdev' ? [JSON.parse(word)] : []))
  assert.deepEqual(
    blockdevs.map((each) => each.driver),
    ['qcow2', 'raw'],
  )
  const [disk, seed] = blockdevs
  assert.equal(disk.file.filename, '/srv/cloud/instances/inst_0123456789/disk.qcow2')
  assert.equal(disk.backing.driver, 'qcow2')
  assert.equal(disk.backing['read-only'], true)
  assert.equal(disk.backing.backing, null)
  assert.equal(seed['read-only'], true)
  assert.ok(!argv.some((word) => ['-drive', '-hda', '-cdrom', '-monitor', '-vnc', '-daemonize'].includes(word)))
})

test('always enables the sandbox and disables default devices', () => {
  const argv = command(spec)
  assert.equal(
    argv[argv.indexOf('-sandbox') + 1],
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
  )
  for (const word of ['-nodefaults', '-no-user-config']) assert.ok(argv.includes(word))
})

test('escapes a comma in a folder name, and the process is still identified', () => {
  const argv = command(spec, '/srv/a,readonly=on')
  assert.equal(argv[argv.indexOf('-name') + 1], 'guest=/srv/a,,readonly=on/instances/inst_0123456789')
  assert.equal(folderOf(argv), '/srv/a,readonly=on/instances/inst_0123456789')
  assert.ok(argv.includes('guest=/srv/a,,readonly=on/instances/inst_0123456789'))
})

test('the hardware UUID is valid and derives from the ID', () => {
  assert.match(uuidOf(spec.id), /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$/)
  assert.equal(uuidOf(spec.id), uuidOf(spec.id))
  assert.notEqual(uuidOf(spec.id), uuidOf('inst_0123456788'))
})
