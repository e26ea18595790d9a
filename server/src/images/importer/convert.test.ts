/** Complete imports of valid and malicious disks that qemu-img creates. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { isFlat } from './convert.ts'
import type { UploadJob } from './job.ts'
import { at, bootableDisk, importNow, jobFolder, limits, sha256, shadowTool, temporaryFolder } from './testing.ts'

const folder = temporaryFolder()
const path = (name: string) => join(folder, name)
const qemuImg = (...args: string[]) => execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' })

const { max_bytes, max_virtual_size_bytes, ready_signal, ssh_user } = limits
const upload = (name: string, more: Partial<UploadJob> = {}): UploadJob => ({
  kind: 'upload',
  path: path(name),
  max_bytes,
  max_virtual_size_bytes,
  ready_signal,
  ssh_user,
  ...more,
})
async function importUpload(name: string, more: Partial<UploadJob> = {}) {
  const job = jobFolder(folder, upload(name, more))
  return { ...(await importNow(job)), paths: at(job) }
}

const secret = 'TOP-SECRET-OF-THE-HOST'.repeat(50)
writeFileSync(path('secret'), secret.padEnd(65536))
const content = bootableDisk(2 << 20)
writeFileSync(path('disk.raw'), content)

const valid: [string, string[]][] = [
  ['plain', ['-f', 'raw', '-O', 'qcow2']],
  ['old', ['-f', 'raw', '-O', 'qcow2', '-o', 'compat=0.10']],
  ['compressed', ['-f', 'raw', '-O', 'qcow2', '-c']],
  ['zstd', ['-f', 'raw', '-O', 'qcow2', '-c', '-o', 'compression_type=zstd']],
  ['small-clusters', ['-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=512']],
  ['large-clusters', ['-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=2M']],
  ['subclusters', ['-f', 'raw', '-O', 'qcow2', '-o', 'extended_l2=on']],
  ['raw', ['-f', 'raw', '-O', 'raw']],
]
for (const [name, args] of valid) {
  test(`converts a ${name} disk without a change to its content`, async () => {
    qemuImg('convert', ...args, 'disk.raw', name)
    const { status, paths, log } = await importUpload(name)
    assert.deepEqual([status.state, status.error, status.progress], ['done', null, 1], log)
    assert.deepEqual(JSON.parse(readFileSync(paths.manifest, 'utf8')), {
      format: 'qcow2',
      virtual_size_bytes: content.length,
      boot: null,
      seed: 'nocloud',
      ready_signal: 'process',
      ssh_user: 'ubuntu',
    })
    assert.match(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', 'disk.raw', paths.disk), /identical/)
    const { mode, uid } = statSync(paths.disk)
    assert.deepEqual([mode & 0o777, uid], [0o444, process.getuid!()])
    assert.ok(existsSync(path(name)), 'the upload is kept')
  })
}

test('accepts and ignores snapshots', async () => {
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', 'disk.raw', 'snapshots')
  qemuImg('snapshot', '-c', 'one', 'snapshots')
  qemuImg('snapshot', '-c', 'two', 'snapshots')
  const { status, paths } = await importUpload('snapshots')
  assert.equal(status.state, 'done')
  assert.equal(JSON.parse(qemuImg('info', '--output=json', '-f', 'qcow2', paths.disk)).snapshots, undefined)
})

function patched(name: string, change: (header: Buffer) => void): void {
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', 'disk.raw', name)
  const file = readFileSync(path(name))
  change(file)
  writeFileSync(path(name), file)
}

const malicious: [string, string, () => void][] = [
  [
    'backing-file',
    'image_unsafe',
    () => {
      qemuImg('create', '-f', 'qcow2', '-b', path('secret'), '-F', 'raw', 'backing-file')
    },
  ],
  [
    'json-backing-file',
    'image_unsafe',
    () => {
      const json = `json:${JSON.stringify({ driver: 'raw', file: { driver: 'file', filename: path('secret') } })}`
      qemuImg('create', '-u', '-f', 'qcow2', '-b', json, '-F', 'raw', 'json-backing-file', '64k')
    },
  ],
  [
    'data-file',
    'image_unsafe',
    () => {
      qemuImg('create', '-f', 'qcow2', '-o', `data_file=${path('data')},data_file_raw=on`, 'data-file', '1M')
    },
  ],
  [
    'raw-with-qcow2-header',
    'image_unsafe',
    () => {
      // A guest can write this to its own raw disk so that it is detected as qcow2.
      qemuImg('create', '-f', 'qcow2', '-b', path('secret'), '-F', 'raw', 'layer')
      writeFileSync(path('raw-with-qcow2-header'), Buffer.concat([readFileSync(path('layer')), Buffer.alloc(1 << 20)]))
    },
  ],
  [
    'aes-in-qcow2',
    'image_unsafe',
    () => {
      const options = 'encrypt.format=aes,encrypt.key-secret=s'
      qemuImg('create', '--object', 'secret,id=s,data=abc', '-f', 'qcow2', '-o', options, 'aes-in-qcow2', '1M')
    },
  ],
  [
    'luks-in-qcow2',
    'image_unsafe',
    () => {
      // The header as qemu-img writes it. qemu-img itself would run a key derivation benchmark for seconds, which can fail
      // while other tests run.
      patched('luks-in-qcow2', (header) => {
        header.writeUInt32BE(2, 32)
        header.copy(header, 136, 112, 512)
        header.write('0537be77000000100000000000040000', 112, 'hex')
        header.writeBigUInt64BE(0x1f9000n, 128)
      })
    },
  ],
  [
    'cut',
    'image_format_unsupported',
    () => {
      qemuImg('convert', '-f', 'raw', '-O', 'qcow2', 'disk.raw', 'cut')
      truncateSync(path('cut'), 1 << 20)
    },
  ],
  ['huge', 'image_too_large', () => patched('huge', (header) => header.writeBigUInt64BE(1n << 60n, 24))],
  ['l1-at-0', 'image_format_unsupported', () => patched('l1-at-0', (header) => header.writeBigUInt64BE(0n, 40))],
  [
    'bad-snapshots',
    'image_format_unsupported',
    () => {
      patched('bad-snapshots', (header) => {
        header.writeUInt32BE(3, 60)
        header.writeBigUInt64BE(65536n, 64)
      })
    },
  ],
  ['vmdk', 'image_format_unsupported', () => void qemuImg('convert', '-f', 'raw', '-O', 'vmdk', 'disk.raw', 'vmdk')],
  ['vdi', 'image_format_unsupported', () => void qemuImg('convert', '-f', 'raw', '-O', 'vdi', 'disk.raw', 'vdi')],
  ['vhdx', 'image_format_unsupported', () => void qemuImg('convert', '-f', 'raw', '-O', 'vhdx', 'disk.raw', 'vhdx')],
  ['qed', 'image_format_unsupported', () => void qemuImg('convert', '-f', 'raw', '-O', 'qed', 'disk.raw', 'qed')],
  ['vhd', 'image_format_unsupported', () => void qemuImg('convert', '-f', 'raw', '-O', 'vpc', 'disk.raw', 'vhd')],
  [
    'fixed-vhd',
    'image_format_unsupported',
    () => {
      qemuImg('convert', '-f', 'raw', '-O', 'vpc', '-o', 'subformat=fixed', 'disk.raw', 'fixed-vhd')
    },
  ],
  ['empty', 'image_format_unsupported', () => writeFileSync(path('empty'), '')],
]
for (const [name, code, make] of malicious) {
  test(`rejects ${name} as ${code} and leaves no files`, async () => {
    make()
    const { status, log, paths } = await importUpload(name)
    assert.deepEqual([status.state, status.error?.code], ['failed', code], log)
    assert.ok(!existsSync(paths.output))
    assert.ok(!JSON.stringify(status).includes(folder), 'the message contains a path')
    assert.ok(!log.includes('TOP-SECRET'))
  })
}

test('rejects a small file whose clusters all refer to the same data', async () => {
  // Every cluster of a 512 MiB disk is the same 64 KiB of the file.
  patched('one-cluster', (file) => {
    const l1 = Number(file.readBigUInt64BE(40))
    const l2 = Number(file.readBigUInt64BE(l1) & 0x00fffffffffffe00n)
    const data = file.readBigUInt64BE(l2)
    for (let entry = 0; entry < 8192; entry++) file.writeBigUInt64BE(data, l2 + 8 * entry)
    file.writeBigUInt64BE(512n << 20n, 24)
  })
  const { status, log } = await importUpload('one-cluster')
  assert.equal(status.error?.code, 'image_format_unsupported', log)
})

test('checks the size and checksum of an upload, and that it is a regular file with one link', async () => {
  assert.equal(
    (await importUpload('disk.raw', { max_bytes: content.length - 1 })).status.error?.code,
    'image_too_large',
  )
  const wrong = await importUpload('disk.raw', { sha256: '0'.repeat(64) })
  assert.equal(wrong.status.error?.code, 'image_checksum_mismatch')
  assert.equal((await importUpload('disk.raw', { sha256: sha256(content).toUpperCase() })).status.state, 'done')
  symlinkSync(path('secret'), path('link'))
  assert.equal((await importUpload('link')).status.error?.code, 'image_import_failed')
})

test('names a missing tool and its package', async () => {
  const { PATH } = process.env
  process.env.PATH = folder
  try {
    const { status } = await importUpload('disk.raw')
    assert.equal(status.error?.code, 'image_host_tool_missing')
    assert.match(status.error!.message, /qemu-img is missing.*apt-get install qemu-utils/)
  } finally {
    process.env.PATH = PATH
  }
})

test('the converter has no privileges, resource limits, and neither environment nor paths of the importer', async () => {
  const real = execFileSync('which', ['qemu-img'], { encoding: 'utf8' }).trim()
  const shadow = shadowTool(
    'qemu-img',
    `#!/bin/sh
if [ "$1" = convert ]; then
  { id -u; id -G; prlimit --pid $$ --noheadings -o RESOURCE,SOFT --as --cpu --fsize --core; env; echo "args $*"; } >&2
  exit 9
fi
exec ${real} "$@"
`,
  )
  const { PATH } = process.env
  Object.assign(process.env, shadow, { CLOUDNEXUS_TEST_SECRET: 'hunter2' })
  try {
    const { status, log } = await importUpload('disk.raw')
    assert.equal(status.error?.code, 'image_format_unsupported', log)
    const { detail } = JSON.parse(log.trim().split('\n').at(-1)!)
    assert.match(detail, /AS +1073741824/)
    assert.match(detail, /CPU +\d+/)
    assert.match(detail, /CORE +0/)
    assert.ok(!detail.includes('hunter2'))
    const args: string = /^args (.*)$/m.exec(detail)![1]!
    assert.ok(!args.includes(folder), args)
    assert.match(args, /json:\{"driver":"raw","file":\{"driver":"file","filename":"\/proc\/self\/fd\/3"\}\}/)
    if (process.getuid!() === 0) assert.match(detail, /code 9: 65534\n65534\n/)
  } finally {
    process.env.PATH = PATH
    delete process.env.CLOUDNEXUS_TEST_SECRET
  }
})

test('a disk is flat only if it is a qcow2 of the size without another file', () => {
  const flat = { format: 'qcow2', 'virtual-size': 512, 'format-specific': { data: {} } }
  assert.ok(isFlat(JSON.stringify(flat), 512))
  const others = [
    { ...flat, format: 'raw' },
    { ...flat, 'virtual-size': 1024 },
    { ...flat, 'backing-filename': 'x' },
    { ...flat, 'format-specific': { data: { 'data-file': 'x' } } },
    { ...flat, encrypted: true },
    {},
  ]
  for (const other of others) assert.ok(!isFlat(JSON.stringify(other), 512), JSON.stringify(other))
})
