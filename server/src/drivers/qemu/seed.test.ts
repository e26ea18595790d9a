import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import type { MachineSpec } from '../driver.ts'
import { runProgram } from './run-program.ts'
import { fwCfgFiles, noCloudFiles, writeSeed, yaml } from './seed.ts'

const spec: MachineSpec = {
  id: 'inst_0123456789',
  environment_id: 'env_0000000000',
  disk: 2,
  run: 1,
  vcpus: 1,
  memory_bytes: 2 ** 27,
  disk_bytes: 2 ** 30,
  image: { id: 'img_0000000000', folder: 'debian-12', seed: 'nocloud', ready_signal: 'guest', boot: null },
  hostname: 'web-1',
  ssh_public_keys: ['ssh-ed25519 AAAA one', 'ssh-ed25519 BBBB two'],
  tags: {},
  user_data: new Uint8Array([0, 255, 10]),
  network: {
    segment: 7,
    mac: '52:54:00:00:00:01',
    private_ip: '10.0.0.5',
    prefix_length: 24,
    public_ip: null,
    ports: [],
  },
}

test('writes one fw_cfg file per value, with an instance ID per disk', () => {
  const files = fwCfgFiles(spec)
  assert.equal(files['instance-id'], 'inst_0123456789-d2\n')
  assert.equal(files.hostname, 'web-1\n')
  assert.equal(files['ssh-keys'], 'ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n')
  assert.equal(files['user-data'], spec.user_data)
  assert.match(String(files.network), /^[0-9a-f:]{17} dhcp\n52:54:00:00:00:01 10\.0\.0\.5\/24\n$/)
})

test('a key or hostname is always one line', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const files = fwCfgFiles({ ...spec, hostname: text, ssh_public_keys: [text, text] })
      assert.equal(String(files.hostname).split('\n').length, 2)
      assert.equal(String(files['ssh-keys']).split('\n').length, 3)
    }),
  )
})

test('cloud-init files are printable JSON that preserves every string', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const written = yaml({ text })
      assert.deepEqual(JSON.parse(written), { text: text.toWellFormed() })
      // biome-ignore lint/suspicious/noControlCharactersInRegex: a YAML parser rejects them
      assert.doesNotMatch(written.trimEnd(), /[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/)
    }),
  )
  const files = noCloudFiles(spec)
  assert.deepEqual(JSON.parse(String(files['meta-data'])), {
    'instance-id': 'inst_0123456789-d2',
    'local-hostname': 'web-1',
    'public-keys': spec.ssh_public_keys,
  })
  assert.equal(files['user-data'], spec.user_data)
  const { eth0, eth1 } = JSON.parse(String(files['network-config'])).ethernets
  assert.equal(eth0.dhcp4, true)
  assert.deepEqual([eth1.match.macaddress, eth1.addresses], ['52:54:00:00:00:01', ['10.0.0.5/24']])
  assert.match(
    String(files['vendor-data']),
    /^Content-Type: multipart\/mixed[\s\S]*disable_root: false[\s\S]*#cloud-boothook\n#!\/bin\/sh\n/,
  )
})

test('writes a volume named cidata that only its owner can read, and no other file', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'seed-'))
  try {
    const [iso] = await writeSeed(spec, folder)
    assert.deepEqual(await readdir(folder), ['seed.iso'])
    assert.equal((await stat(iso!)).mode & 0o777, 0o600)
    assert.match(await runProgram(['isoinfo', '-d', '-i', iso!]), /Volume id: cidata/)
    const names = (await runProgram(['isoinfo', '-R', '-f', '-i', iso!])).trim().split('\n').sort()
    assert.deepEqual(names, ['/meta-data', '/network-config', '/user-data', '/vendor-data'])
    assert.match(await runProgram(['isoinfo', '-R', '-x', '/meta-data', '-i', iso!]), /inst_0123456789-d2/)
  } finally {
    await rm(folder, { recursive: true })
  }
})
