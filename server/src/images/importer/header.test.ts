import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ImportError } from './errors.ts'
import { inspectImage } from './header.ts'
import type { Sample } from './qcow2.ts'
import { bootableDisk } from './testing.ts'

const MAX = 2 ** 40

const sampleOf = (file: Buffer): Sample => ({ head: file, tail: file.subarray(-512), size_bytes: file.length })

const CLUSTER = 16384

/** A 1 GiB disk as qemu-img creates it (version 3): header, feature names and one cluster per table. */
function qcow2(): Buffer {
  const file = Buffer.alloc(4 * CLUSTER)
  file.write('QFI\xfb', 'latin1')
  file.writeUInt32BE(3, 4)
  file.writeUInt32BE(14, 20)
  file.writeBigUInt64BE(1n << 30n, 24)
  file.writeUInt32BE(32, 36)
  file.writeBigUInt64BE(BigInt(3 * CLUSTER), 40)
  file.writeBigUInt64BE(BigInt(CLUSTER), 48)
  file.writeUInt32BE(1, 56)
  file.writeUInt32BE(4, 96)
  file.writeUInt32BE(112, 100)
  file.writeUInt32BE(0x6803f857, 112)
  file.writeUInt32BE(96, 116)
  return file
}

function codeOf(file: Buffer, max = MAX): string {
  try {
    return inspectImage(sampleOf(file), max).format
  } catch (error) {
    assert.ok(error instanceof ImportError, String(error))
    return error.code
  }
}

const with32 = (at: number, value: number) => {
  const file = qcow2()
  file.writeUInt32BE(value, at)
  return file
}
const with64 = (at: number, value: bigint) => {
  const file = qcow2()
  file.writeBigUInt64BE(value, at)
  return file
}
const v2 = (file: Buffer) => {
  file.writeUInt32BE(2, 4)
  file.fill(0, 72, CLUSTER)
  return file
}

test('accepts raw and qcow2', () => {
  assert.deepEqual(inspectImage(sampleOf(qcow2()), MAX), { format: 'qcow2', virtual_size_bytes: 1 << 30 })
  assert.equal(codeOf(v2(qcow2())), 'qcow2')
  assert.deepEqual(inspectImage(sampleOf(bootableDisk()), MAX), { format: 'raw', virtual_size_bytes: 1 << 20 })
  const gpt = Buffer.alloc(4096)
  gpt.write('EFI PART', 512)
  assert.equal(codeOf(gpt), 'raw')
})

const unsafe: [string, Buffer][] = [
  ['a backing file', with64(8, 528n)],
  ['an external data file', with64(72, 4n)],
  ['an external data file among others', with64(72, 0x1dn)],
  ['an unknown feature', with64(72, 32n)],
  ['the last unknown feature', with64(72, 1n << 63n)],
  ['AES encryption', with32(32, 1)],
  ['LUKS encryption', with32(32, 2)],
  ['a data file extension', with32(112, 0x44415441)],
  ['an encryption extension', with32(112, 0x0537be77)],
  ['a compression type without its feature bit', with32(104, 1 << 24)],
  ['a compression feature bit without its type', with64(72, 8n)],
]
for (const [what, file] of unsafe)
  test(`rejects qcow2 with ${what} as unsafe`, () => assert.equal(codeOf(file), 'image_unsafe'))

const unsupported: [string, Buffer][] = [
  ['marked dirty', with64(72, 1n)],
  ['marked corrupt', with64(72, 2n)],
  ['of version 1', with32(4, 1)],
  ['of version 4', with32(4, 4)],
  ['with clusters of 256 bytes', with32(20, 8)],
  ['with clusters of 4 MiB', with32(20, 22)],
  ['of size 0', with64(24, 0n)],
  ['of an odd size', with64(24, 513n)],
  ['whose L1 table is at 0', with64(40, 0n)],
  ['whose L1 table is in the header cluster', with64(40, 512n)],
  ['whose L1 table is beyond the end', with64(40, 1n << 62n)],
  ['whose L1 table is too small', with32(36, 1)],
  ['whose L1 table is huge', with32(36, 0xffffffff)],
  ['without reference counts', with32(56, 0)],
  ['whose reference counts are beyond the end', with64(48, 1n << 40n)],
  ['whose snapshots are beyond the end', with32(60, 1)],
  ['whose header is too long', with32(100, 0xfffffff8)],
  ['whose header is too short', with32(100, 72)],
  ['whose extension leaves the cluster', with32(116, 0xfffffff0)],
  ['whose reference counts have 128 bits', with32(96, 7)],
  ['truncated after 100 bytes', qcow2().subarray(0, 100)],
  ['truncated after 70 bytes', qcow2().subarray(0, 70)],
  ['truncated after 4 bytes', qcow2().subarray(0, 4)],
  ['truncated before its tables', qcow2().subarray(0, 3 * CLUSTER)],
]
for (const [what, file] of unsupported) {
  test(`rejects qcow2 ${what} as unsupported`, () => assert.equal(codeOf(file), 'image_format_unsupported'))
}

test('accepts supported features that name no other file', () => {
  const zstd = with64(72, 8n)
  zstd.writeUInt8(1, 104)
  const [extendedL2, snapshot] = [with64(72, 16n), with32(60, 1)]
  extendedL2.writeUInt32BE(64, 36)
  snapshot.writeBigUInt64BE(BigInt(2 * CLUSTER), 64)
  for (const file of [zstd, extendedL2, snapshot]) assert.equal(codeOf(file), 'qcow2')
})

test('rejects disks above the limit', () => {
  for (const bits of [41n, 60n, 63n]) assert.equal(codeOf(with64(24, 1n << bits)), 'image_too_large')
  assert.equal(codeOf(with64(24, 2n ** 64n - 1n)), 'image_too_large')
  assert.equal(codeOf(bootableDisk(), 1 << 19), 'image_too_large')
})

test('rejects other formats and disks that are not bootable', () => {
  const other = (mark: string, at = 0) => {
    const file = bootableDisk(4096)
    file.write(mark, at, 'latin1')
    return file
  }
  const marks = [
    'KDMV',
    'COWD',
    '# Disk DescriptorFile',
    'conectix',
    'vhdxfile',
    'QED\0',
    'LUKS\xba\xbe',
    '\x1f\x8b',
    'BZh',
  ]
  for (const mark of marks) assert.equal(codeOf(other(mark)), 'image_format_unsupported', mark)
  assert.equal(codeOf(other('\x7f\x10\xda\xbe', 64)), 'image_format_unsupported', 'VDI')
  assert.equal(codeOf(other('ustar', 257)), 'image_format_unsupported', 'tar')
  assert.equal(codeOf(other('conectix', 4096 - 512)), 'image_format_unsupported', 'fixed VHD')
  assert.equal(codeOf(bootableDisk(4097)), 'image_format_unsupported', 'odd length')
  for (const file of [Buffer.alloc(0), Buffer.alloc(4096), Buffer.from('<html>'), Buffer.alloc(65536, 'x')]) {
    assert.equal(codeOf(file), 'image_format_unsupported')
  }
})

test('property: a mutated header is rejected with ImportError or valid', () => {
  let accepted = 0
  // Random bytes in the header and its extensions, and critical values in each field.
  const byte = fc.record({ at: fc.nat(220), bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }) })
  const critical = fc.constantFrom(
    0n,
    1n,
    2n,
    8n,
    16n,
    512n,
    65536n,
    131072n,
    1n << 20n,
    1n << 31n,
    1n << 53n,
    1n << 63n,
  )
  const field = fc.record({ at: fc.constantFrom(8, 24, 40, 48, 64, 72, 80, 88), value: critical })
  const short = fc.record({ at: fc.constantFrom(4, 16, 20, 32, 36, 56, 60, 96, 100, 104, 112, 116), value: critical })
  const change = fc.oneof(byte, field, short)
  const changes = fc.record({ old: fc.boolean(), changes: fc.array(change, { minLength: 1, maxLength: 3 }) })
  fc.assert(
    fc.property(changes, fc.integer({ min: 0, max: 4 * CLUSTER }), fc.boolean(), ({ old, changes }, length, cut) => {
      let file = old ? v2(qcow2()) : qcow2()
      for (const change of changes) {
        if ('bytes' in change) file.set(change.bytes, change.at)
        else if (change.at % 8 === 0 && change.at !== 32 && change.at < 96)
          file.writeBigUInt64BE(change.value, change.at)
        else file.writeUInt32BE(Number(change.value & 0xffffffffn), change.at)
      }
      if (cut) file = file.subarray(0, length)
      if (codeOf(file) !== 'qcow2') return
      accepted++
      const version = file.readUInt32BE(4)
      assert.ok(version === 2 || version === 3)
      assert.equal(file.readBigUInt64BE(8), 0n, 'backing file')
      assert.equal(file.readUInt32BE(32), 0, 'encryption')
      if (version === 3) assert.equal(file.readBigUInt64BE(72) & ~0x18n, 0n, 'features')
      const bits = file.readUInt32BE(20)
      assert.ok(bits >= 9 && bits <= 21, 'clusters')
      const size = file.readBigUInt64BE(24)
      assert.ok(size > 0n && size % 512n === 0n && size <= BigInt(MAX), 'size')
      const [l1, refcounts] = [file.readBigUInt64BE(40), file.readBigUInt64BE(48)]
      assert.ok(l1 > 0n && l1 + 8n * BigInt(file.readUInt32BE(36)) <= BigInt(file.length), 'L1 table')
      assert.ok(refcounts > 0n && refcounts < BigInt(file.length), 'reference counts')
    }),
    { numRuns: 5000 },
  )
  assert.ok(accepted > 50, `only ${accepted} accepted: the property tests too little`)
})

test('property: random bytes are rejected with ImportError or have a boot sector', () => {
  const bytes = fc.uint8Array({ maxLength: 2048 })
  fc.assert(
    fc.property(bytes, fc.boolean(), (content, magic) => {
      const file = Buffer.concat([Buffer.from(magic ? 'QFI\xfb' : '', 'latin1'), content])
      if (codeOf(file) === 'raw') assert.equal(file.readUInt16BE(510), 0x55aa)
    }),
    { numRuns: 2000 },
  )
})
